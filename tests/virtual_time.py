"""Virtual time: an event loop on which hours pass in microseconds, the same way each time.

Nothing waits for the real clock: whenever no callback is ready, time jumps to the next timer. When there
is no timer either, nothing can ever happen again, and the loop raises `Deadlock` with what every task
waits for. Work given to an executor runs inline. A test reads:

    @virtual_time
    async def test_it_tries_again(clock: VirtualClock, tmp_path: Path) -> None:
        await pass_time(3600)

or, from a hypothesis test and the like, `run_virtual(scenario)`, where `scenario(clock)` is a coroutine
function.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

#: 2026-01-01T00:00:00Z, where virtual wall clocks start unless told otherwise.
EPOCH_MS: Final = 1_767_225_600_000
#: A run ends here at the latest: heartbeats and other timers would keep a stuck one going for ever.
LIMIT_S: Final = 7 * 86_400.0
#: Real seconds that one real operation inside `real_io` may take.
_REAL_IO_S: Final = 10.0
#: Timers closer than this fire together; wide enough for the rounding of any time below `LIMIT_S`.
_RESOLUTION_S: Final = 1e-6

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Deadlock(RuntimeError):
    """Nothing is ready and nothing is due: the program would wait for ever."""


class VirtualTimeLimit(RuntimeError):
    """The run went on past its limit of virtual time: it waits for something that does not come."""


class _Selector(selectors.BaseSelector):
    """Real file descriptors, but instead of sleeping it tells the loop to move its time."""

    def __init__(self, idle: Callable[[float | None], float]) -> None:
        self._real = selectors.DefaultSelector()
        self._idle = idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self._real.select(0)
        if found or timeout == 0:
            return found
        return self._real.select(self._idle(timeout))

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. `time()` starts at 0."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._now_s = 0.0
        self._limit_s = limit_s
        self._real_operations = 0
        super().__init__(_Selector(self._idle))
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        return self._now_s

    @contextmanager
    def real_io(self) -> Iterator[None]:
        """Inside, time stands still while the loop waits for real sockets, pipes or threads.

        Without it, time jumps past whatever the outside world takes: a real server's answer, or
        another thread's, would come after every time-out.
        """
        self._real_operations += 1
        try:
            yield
        finally:
            self._real_operations -= 1

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Inline: a thread would make the order of things depend on the machine."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # goes to whoever awaits it
            done.set_exception(error)
        return done

    def _idle(self, timeout_s: float | None) -> float:
        """Nothing is ready: move time. Returns how long to wait for real."""
        if self._real_operations:
            return _REAL_IO_S
        if timeout_s is None:
            raise Deadlock("nothing is ready and no timer is set; waiting:\n" + _waiting(self))
        self._now_s += timeout_s
        if self._now_s > self._limit_s:
            limit, self._limit_s = self._limit_s, float("inf")  # what cleans up may still wait
            raise VirtualTimeLimit(f"still going after {limit} virtual seconds; waiting:\n{_waiting(self)}")
        return 0.0


class VirtualClock:
    """Adapter of the `Clock` port on a loop's time, with a wall clock that can be set.

    Args:
        loop: where the time comes from.
        epoch_ms: the wall time when the loop's time is 0.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, epoch_ms: int = EPOCH_MS) -> None:
        self.loop = loop
        self.epoch_ms = epoch_ms

    def now_ms(self) -> int:
        return self.epoch_ms + int(self.loop.time() * 1_000 + 1e-3)  # 1.1 s are 1100.0000000000002 ms

    def monotonic_s(self) -> float:
        return self.loop.time()

    def jump(self, seconds: float) -> None:
        """A fault: somebody sets the wall clock. Monotonic time does not notice."""
        self.epoch_ms += round(seconds * 1_000)


async def pass_time(seconds: float) -> None:
    """Let virtual time pass. Fails on a real loop, where it would be a sleep in a test."""
    assert isinstance(asyncio.get_running_loop(), VirtualLoop), "time passes in virtual time only"
    await asyncio.sleep(seconds)


async def settle(turns: int = 50) -> None:
    """Let everything that is ready run, without letting time pass."""
    for _ in range(turns):
        await asyncio.sleep(0)


def run_virtual(
    main: Callable[[VirtualClock], Coroutine[Any, Any, T]],
    *,
    epoch_ms: int = EPOCH_MS,
    limit_s: float = LIMIT_S,
) -> T:
    """Run `main(clock)` to its end on a new loop in virtual time.

    Raises:
        Deadlock: nothing is ready and nothing is due.
        VirtualTimeLimit: it was not done after `limit_s` virtual seconds.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(limit_s)) as runner:
        return runner.run(main(VirtualClock(runner.get_loop(), epoch_ms)))


def virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Decorator: the coroutine function is a test in virtual time; its first argument is the clock."""
    signature = inspect.signature(test)
    first, *others = signature.parameters.values()
    assert first.name == "clock", "the first argument of a test in virtual time is the clock"

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def main(clock: VirtualClock) -> None:
            await test(clock, *args, **kwargs)

        run_virtual(main)

    del run.__dict__["__wrapped__"]
    run.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]  # read by pytest
    return run


def _waiting(loop: asyncio.AbstractEventLoop) -> str:
    lines = []
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        frames = task.get_stack()
        place = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "not started"
        lines.append(f"  {task.get_name()} ({_name(task)}) at {place}")
    return "\n".join(lines) or "  no task"


def _name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "?")
