"""Worker: a server, `SERVER empty|json` or `SERVER atlas|paused DIRECTORY`.

`empty` is a Starlette application with one handler that does nothing, `json` one that
reads a JSON body and answers as many bytes as Atlas does. `atlas` is all of Atlas in the one
process, as `atlas dev` runs it but with a quota that nobody reaches; `paused` the same without projector
and deliverer.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atlas.bootstrap import MASTER_KEY_BYTES, Options, Role, open_embedded
from atlas.core.addresses import LOOPBACK
from atlas.core.entities import Quota
from atlas.core.tokens import digest
from atlas.first_workspace import ensure_first_workspace
from atlas.installation_secrets import operator_token
from atlas.runtime.telemetry import Metrics, configure_logging
from atlas.serve import bind, listen, serve, url_of
from scripts.bench_lib.worker import on_requests, say

_NO_LIMIT: Final = Quota(requests_per_minute=60_000_000, burst=1_000_000)
_ANSWER: Final[dict[str, Any]] = {
    "id": "evt_01M852ACDMJDWZG9C1F4PEHFC4",
    "object": "event",
    "stream": "bench",
    "type": "",
    "status": "accepted",
    "received_at": "2026-05-18T14:22:11.482Z",
    "occurred_at": "2026-05-18T14:22:11Z",
    "idempotency_key": None,
    "routes": [],
}


async def _nothing(_request: Request) -> Response:
    return Response(status_code=202)


async def _json(request: Request) -> Response:
    value = orjson.loads(await request.body())
    return Response(orjson.dumps({**_ANSWER, "type": value["type"]}), 202, media_type="application/json")


async def _bare(server: str, kind: str) -> None:
    handler = _json if kind == "json" else _nothing
    app = Starlette(routes=[Route("/v1/events", handler, methods=["POST"])])
    await _serve(app, server, token="")


async def _atlas(server: str, directory: Path, consumers: bool) -> None:
    metrics, operator = Metrics(), operator_token(directory)
    lines = configure_logging(metrics)
    options = Options(
        master_key=os.urandom(MASTER_KEY_BYTES),
        operator_token_digest=digest(operator),
        quota=_NO_LIMIT,
        allow_networks=LOOPBACK,
        roles=Role.ALL if consumers else Role.GATEWAY,
    )
    atlas = await open_embedded(directory, options, metrics=metrics)
    try:
        await atlas.start()
        workspace = await ensure_first_workspace(atlas, directory)
        await _serve(atlas.app, server, token=workspace.live.secret, operator_token=operator)
    finally:
        await atlas.close()
        lines.close()


async def _serve(app: Any, server: str, **tokens: str) -> None:
    stop = asyncio.Event()
    on_requests(lambda _request: {}, stop)
    with listen(bind("127.0.0.1", 0)) as sock:
        serving = asyncio.create_task(serve(app, sock, server, stop))
        gc.collect()
        gc.freeze()  # as `atlas dev` does once it serves
        say({"url": url_of(sock), **tokens})
        await serving


def main() -> None:
    """Serve until stdin ends."""
    server, kind, *directory = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if kind in ("empty", "json"):
            runner.run(_bare(server, kind))
        else:
            runner.run(_atlas(server, Path(directory[0]), consumers=kind == "atlas"))


if __name__ == "__main__":
    main()
