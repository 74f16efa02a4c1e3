"""How every test runs: hypothesis without a deadline, since the machine is shared, and in CI each time the
same; and the garbage collector does not go through the collected tests again and again.
"""

from __future__ import annotations

import gc
import os

from hypothesis import settings

settings.register_profile("atlas", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("atlas")


def pytest_collection_finish() -> None:
    """Thousands of tests stay for good; many a test looks for garbage, and would go through all of them."""
    gc.collect()
    gc.freeze()
