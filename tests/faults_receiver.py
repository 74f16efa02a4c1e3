"""Receivers of deliveries: what each request was, when it came, and how it was answered.

A target answers as its `Temper` says; which request it is that fails is up to chance.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from tests.invariants_history import Arrival

SLOW_MAX_S: Final = 0.4
#: How the paths of webhook endpoints begin.
ENDPOINT: Final = "told-"
#: Far above what a slow answer takes: one that is given is always in time.
TIMEOUT_MS: Final = 5_000


@dataclass(frozen=True)
class Temper:
    """Chances, from 0 to 1: of a 503, of an answer that takes its time, of none at all."""

    fails: float = 0.0
    slow: float = 0.0
    cuts: float = 0.0


FINE: Final = Temper()
FLAKY: Final = Temper(fails=0.25, slow=0.15, cuts=0.05)


class Receiver:
    """An HTTP server on a free port of this machine.

    Attributes:
        arrivals: every delivery of an event, in the order in which they came; `notices`: of an outcome.
        on_request: called with each of the former once all of it is there, and before it is answered.
    """

    def __init__(self, tempers: Mapping[str, Temper], chance: random.Random) -> None:
        self.arrivals: list[Arrival] = []
        self.notices: list[Arrival] = []
        self.on_request: Callable[[Arrival], None] = _ignore
        self._tempers = tempers
        self._chance = chance
        self._port = 0
        application = web.Application()
        application.router.add_post("/{target}", self._receive)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)

    def url(self, target: str) -> str:
        return f"http://127.0.0.1:{self._port}/{target}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1_024).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        target = request.match_info["target"]
        headers = {name.lower(): value for name, value in request.headers.items()}
        at_ms = time.time_ns() // 1_000_000
        told = target.startswith(ENDPOINT)
        arrivals = self.notices if told else self.arrivals
        place = len(arrivals)
        arrivals.append(Arrival(target=target, at_ms=at_ms, headers=headers, body=body, status=None))
        if not told:
            self.on_request(arrivals[place])
        status = await self._answer(self._tempers[target])
        if status is None:
            if request.transport is not None:
                request.transport.close()
            return web.Response(status=500)  # goes nowhere
        arrivals[place] = replace(arrivals[place], status=status)
        return web.Response(status=status)

    async def _answer(self, temper: Temper) -> int | None:
        draw = self._chance.random()
        if draw < temper.slow:
            await asyncio.sleep(self._chance.uniform(0.0, SLOW_MAX_S))
        if (draw := self._chance.random()) < temper.cuts:
            return None
        return 503 if draw < temper.cuts + temper.fails else 200


def _ignore(_: Arrival) -> None:
    """Nobody wants to know."""
