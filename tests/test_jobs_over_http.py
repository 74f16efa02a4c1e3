"""Watching from the shell what goes on in a server: through its absence, until Ctrl-C, and taken up again."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from bisect import bisect_right
from itertools import accumulate
from typing import Final

import pytest

from atlas.client.http import Refused, Unreachable
from atlas.core.tokens import make_operator_token
from atlas.jobs_over_http import INTERRUPTED, LOOK_EVERY_MAX_S, PATIENCE_S, Job, until_ended
from tests.processes import ATLAS, environment
from tests.raw_server import RawServer, plain, says, serve
from tests.virtual_time import VirtualClock, virtual_time

RUNNING: Final[Job] = {"id": "rbd_1", "status": "running"}
DONE: Final[Job] = {"id": "rbd_1", "status": "completed"}
AWAY: Final = Unreachable("no answer")
LATER: Final = Refused(503, "service_unavailable", "Later.")
TOO_OFTEN: Final = Refused(429, "rate_limit_exceeded", "Later.")
UNKNOWN: Final = Refused(404, "not_found", "None.")

#: By command: its path, the prefix of its ids, and fields of its jobs.
JOBS: Final[dict[str, tuple[str, str, Job]]] = {
    "replay": ("/v1/replays", "rpl_1", {"matched": 9, "replayed": 3, "skipped": 0}),
    "rebuild": ("/admin/v1/rebuilds", "rbd_1", {"records_folded": 3, "records_total": 9, "error": None}),
    "verify": ("/admin/v1/verify", "vfy_1", {"records_folded": 3, "records_total": 9, "error": None}),
}


class Looks:
    """What looks find: each answer for so many seconds, the last one for ever."""

    def __init__(self, clock: VirtualClock, *stretches: tuple[float, Job | Exception]) -> None:
        self._clock = clock
        self._ends_s = list(accumulate(lasts_s for lasts_s, _ in stretches[:-1]))
        self._answers = [answer for _, answer in stretches]
        self.count = 0

    async def __call__(self) -> Job:
        self.count += 1
        answer = self._answers[bisect_right(self._ends_s, self._clock.monotonic_s())]
        if isinstance(answer, Exception):
            raise answer
        return answer


@virtual_time
async def test_a_server_may_be_away_while_the_job_goes_on(clock: VirtualClock) -> None:
    away_s = PATIENCE_S - 2 * LOOK_EVERY_MAX_S
    here = (2 * LOOK_EVERY_MAX_S, RUNNING)
    looks = Looks(clock, (away_s, LATER), here, (away_s, AWAY), here, (away_s, TOO_OFTEN), (1, DONE))
    shown: list[Job] = []
    assert await until_ended(looks, RUNNING, shown.append) == DONE
    assert (shown[0], shown[-1]) == (RUNNING, DONE)


@pytest.mark.parametrize("error", [LATER, AWAY, TOO_OFTEN], ids=repr)
def test_patience_has_an_end_and_looks_are_few(error: Exception) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        looks = Looks(clock, (1, error))
        with pytest.raises(type(error)):
            await until_ended(looks, RUNNING, lambda _: None)
        assert PATIENCE_S <= clock.monotonic_s() <= PATIENCE_S + LOOK_EVERY_MAX_S
        assert looks.count < 2 * PATIENCE_S / LOOK_EVERY_MAX_S

    test()


@virtual_time
async def test_what_will_not_change_is_said_at_once(clock: VirtualClock) -> None:
    with pytest.raises(Refused):
        await until_ended(Looks(clock, (1, UNKNOWN)), RUNNING, lambda _: None)
    assert clock.monotonic_s() < 1


async def begun(target: RawServer, *arguments: str) -> Process:
    tokens = {"ATLAS_API_KEY": "x", "ATLAS_OPERATOR_TOKEN": make_operator_token(bytes(20))}
    url = target.url.removesuffix("/hook")
    return await asyncio.create_subprocess_exec(
        ATLAS, *arguments, "--url", url, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment(tokens)
    )


async def ended(process: Process) -> tuple[int | None, str, list[str]]:
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    return process.returncode, out.decode(), [line for line in err.decode().splitlines() if line.strip()]


def answer(status: str, value: object) -> bytes:
    return plain(status, "Content-Type: application/json", body=json.dumps(value).encode())


def job(command: str, status: str) -> Job:
    _, job_id, fields = JOBS[command]
    return {"id": job_id, "status": status, **fields}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("command", JOBS)
async def test_ctrl_c_says_what_goes_on_and_how_to_see_it(command: str, again: bool) -> None:
    path, job_id, _ = JOBS[command]
    running = answer("200 OK", job(command, "running"))
    async with serve(says(running)) as target:
        process = await begun(target, command, *(["--watch", job_id] if again else []))
        await target.arrived(3)
        process.send_signal(signal.SIGINT)
        code, out, lines = await ended(process)
    assert (code, out) == (INTERRUPTED, "")
    (line,) = lines
    assert line.startswith(f"{job_id} goes on; `atlas {command} --watch {job_id}` shows it")
    assert (f"`atlas replay --cancel {job_id}` stops it" in line) == (command == "replay")
    first = f"GET {path}/{job_id} " if again else f"POST {path} "
    assert [request.startswith(first.encode()) for request in target.requests[:2]] == [True, again]


@pytest.mark.parametrize("command", JOBS)
async def test_who_can_no_longer_see_it_is_told_how_to(command: str) -> None:
    unknown = answer("401 X", {"error": {"code": "authentication_failed", "message": "Expired."}})
    async with serve(says(answer("202 X", job(command, "running")), unknown)) as target:
        code, out, lines = await ended(await begun(target, command))
    assert (code, out) == (1, "")
    (line,) = lines
    job_id = JOBS[command][1]
    assert line.startswith(
        f"atlas: authentication_failed: Expired; {job_id} may go on: `atlas {command} --watch {job_id}`"
    )


async def test_what_was_asked_for_before_is_taken_up() -> None:
    later = answer("503 X", {"error": {"code": "service_unavailable", "message": "Later."}})
    done = {**job("verify", "completed"), "equal": False, "live_digest": "0", "differences": []}
    async with serve(says(answer("200 X", job("verify", "running")), later, answer("200 X", done))) as target:
        code, out, lines = await ended(await begun(target, "verify", "--watch", "vfy_1", "--json"))
    assert (code, json.loads(out)) == (1, done)
    assert lines == ["atlas: the read model differs from the log; `atlas rebuild` makes it anew"]
    assert all(request.startswith(b"GET /admin/v1/verify/vfy_1 ") for request in target.requests)
