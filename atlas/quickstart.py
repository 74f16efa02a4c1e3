"""The reference's quickstart as commands that work as they stand, and what `atlas dev` prints around them.

Nothing here is wrapped or shortened: every command can be copied, at any width of the terminal.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from rich.console import Console
from rich.text import Text

#: The stream that step 1 makes.
STREAM: Final = "orders-prod"
STEP_1: Final = "1. Create an event stream"
STEP_2: Final = "2. Send an event, and keep its id"
STEP_3: Final = "3. Check its delivery status"

_STREAM: Final = (
    f'{{"name": "{STREAM}", "description": "Production order lifecycle events", "retention_days": 30}}'
)
_EVENT: Final = (
    f'{{"stream": "{STREAM}", "type": "order.fulfilled", "occurred_at": "2026-05-18T14:22:11Z", '
    '"data": {"order_id": "ord_8K2N1Q7", "total_cents": 4299}}'
)


class Installation(Struct, frozen=True, kw_only=True):
    """What a newcomer needs to know of a running Atlas."""

    url: str
    data_dir: str
    workspace_id: str
    live_secret_key: str
    test_secret_key: str
    operator_token: str
    step_1_done: bool


def create_stream(url: str, key: str) -> str:
    """The command of step 1; `key` may be a shell variable."""
    return f"""\
curl -sS -w '\\n' {url}/v1/event-streams \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{_STREAM}'"""


def send_event(url: str, key: str) -> str:
    """The commands of step 2: they show the answer, and leave the event's id in EVENT_ID."""
    return f"""\
EVENT=$(curl -sS {url}/v1/events \\
  -H "Authorization: Bearer {key}" \\
  -H "Idempotency-Key: 6f1a3b9c-0d29-4d6b-9c0e-1f4b7a2e88aa" \\
  -H "Content-Type: application/json" \\
  -d '{_EVENT}')
printf '%s\\n' "$EVENT"
EVENT_ID=$(printf '%s' "$EVENT" | sed -n 's/.*"id":"\\(evt_[0-9A-Z]*\\)".*/\\1/p')"""


def check_status(url: str, key: str) -> str:
    """The command of step 3; uses what step 2 left in EVENT_ID."""
    return f"""\
curl -sS -w '\\n' "{url}/v1/events/$EVENT_ID" \\
  -H "Authorization: Bearer {key}\""""


def show(console: Console, atlas: Installation) -> None:
    """Print where Atlas is, its keys and the three steps."""
    _line(console, f"Atlas serves at {atlas.url} (data in {atlas.data_dir}; Ctrl-C ends it)", "bold")
    _line(console, "")
    _line(console, f"  workspace        {atlas.workspace_id}")
    _line(console, f"  live secret key  {atlas.live_secret_key}")
    _line(console, f"  test secret key  {atlas.test_secret_key}")
    _line(console, f"  operator token   {atlas.operator_token}")
    _line(console, "")
    _line(console, "# The quickstart: paste this into another terminal.", "bold")
    if atlas.step_1_done:
        _step(console, f"{STEP_1}: done, {STREAM} exists", "")
    else:
        _step(console, STEP_1, create_stream(atlas.url, atlas.live_secret_key))
    _step(console, STEP_2, send_event(atlas.url, atlas.live_secret_key))
    _step(console, STEP_3, check_status(atlas.url, atlas.live_secret_key))


def _step(console: Console, title: str, command: str) -> None:
    _line(console, "")
    _line(console, f"# {title}", "bold")
    for line in command.splitlines():
        _line(console, line)


def _line(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style=style), soft_wrap=True)
