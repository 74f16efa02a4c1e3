"""Prints new secrets of an installation, in the form of an env file. Who has them has the installation."""

from __future__ import annotations

import os
import sys

from atlas.bootstrap import MASTER_KEY_BYTES
from atlas.core.tokens import ENTROPY_BYTES, make_operator_token
from atlas.settings import MASTER_KEY_VARIABLE, TOKEN_VARIABLE

if __name__ == "__main__":
    sys.stdout.write(f"{MASTER_KEY_VARIABLE}={os.urandom(MASTER_KEY_BYTES).hex()}\n")
    sys.stdout.write(f"{TOKEN_VARIABLE}={make_operator_token(os.urandom(ENTROPY_BYTES))}\n")
