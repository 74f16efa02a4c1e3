"""What one poll takes of each partition, on either log."""

from __future__ import annotations

from typing import Final

#: So that many partitions do not make many small batches.
SHARE_MIN: Final = 64


def poll_share(records_max: int, partitions: int) -> int:
    """Records to take of each partition that has some.

    A fair share: events and the facts about them lie in different partitions, and are folded together when
    they come together.
    """
    return max(SHARE_MIN, records_max // max(1, partitions))
