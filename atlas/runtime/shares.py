"""A bound on something that all targets of a process share, divided between workspaces, and between targets.

Nobody may hold more than what is free: one that wants all there is gets half of it, of two each gets a
third, and so on. So there is always something left for whoever comes next, and nobody needs to be counted
beforehand. The rule holds for a workspace with all its targets, and for each target within.
"""

from __future__ import annotations

from collections import Counter


class Shares:
    """Of one bound.

    Attributes:
        most: how much all together are to hold; what is granted in spite of it comes on top.
        held: how much they do.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self._by_workspace: Counter[str] = Counter()

    def bound(self, workspace_id: str, its: int) -> int:
        """How much a target may hold now that holds `its`; less than that when others have come."""
        free = self.most - self.held
        return min(free, free - self._by_workspace[workspace_id] + its)

    def take(self, workspace_id: str) -> None:
        """One more."""
        self.held += 1
        self._by_workspace[workspace_id] += 1

    def give_back(self, workspace_id: str) -> None:
        """One less."""
        self.held -= 1
        self._by_workspace[workspace_id] -= 1
        if not self._by_workspace[workspace_id]:
            del self._by_workspace[workspace_id]
