"""How hypothesis runs in every test: no deadline, since the machine is shared; in CI each run the same."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("atlas", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("atlas")
