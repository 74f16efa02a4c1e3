"""One deadline for many bodies, at the price of a dictionary entry each.

`asyncio.timeout` arms and disarms a timer, about 4 microseconds: a sixth of what the whole front may cost.
Here all deadlines are equally far away, so they end in the order they began, and one timer for the oldest
is enough. It stays armed when that one ends early.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_EXPIRED: Final = -1.0

Task = asyncio.Task[Any]


class Deadlines:
    """Cancels tasks that are still at it after `after_s`.

    A task calls `start` before what it bounds, and `stop` after it, in a `finally`; when a cancellation
    reaches it in between, `expired` tells whether it was this.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._due_s: dict[Task, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> Task:
        """The current task's time begins. It can have one deadline at a time."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        due_s = loop.time() + self._after_s
        self._due_s[task] = due_s
        if self._timer is None:
            self._timer = loop.call_at(due_s, self._sweep)
        return task

    def stop(self, task: Task) -> None:
        """It ended."""
        del self._due_s[task]

    def expired(self, task: Task) -> bool:
        """Whether a cancellation that reached the task is the deadline's, and nobody else's too."""
        return self._due_s[task] == _EXPIRED and task.uncancel() == 0

    def _sweep(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for task, due_s in self._due_s.items():
            if due_s > now_s:
                self._timer = loop.call_at(due_s, self._sweep)
                return
            if due_s != _EXPIRED:
                self._due_s[task] = _EXPIRED
                task.cancel()
