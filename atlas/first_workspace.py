"""The workspace `default` of `atlas dev`: the same one, with the same keys, for the same data directory.

What chance decides (ids, keys) is written to a private file first and proposed to the control log only
then, so that a crash at any point in between repeats the same proposal at the next start.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from atlas.bootstrap import Atlas, read_or_create_private, write_private
from atlas.core.commands import CreateKey, CreateWorkspace
from atlas.core.control import ControlState
from atlas.core.entities import ApiKey, Workspace
from atlas.core.errors import AtlasError
from atlas.core.tokens import ENTROPY_BYTES, digest, display_prefix, is_key, make_key

NAME: Final = "default"
FILE: Final = "workspace.json"
_ENVIRONMENTS: Final = ("live", "test")


class SavedKey(Struct, frozen=True):
    """A secret key: this file is the only place where it stands in clear."""

    id: str
    secret: str
    at_ms: int


class FirstWorkspace(Struct, frozen=True):
    """Content of the file. `command_id` and `at_ms` are those of the workspace's creation."""

    workspace_id: str
    command_id: str
    at_ms: int
    live: SavedKey
    test: SavedKey

    def entities(self) -> list[ApiKey]:
        """The keys as the control log holds them."""
        return [self._entity(environment) for environment in _ENVIRONMENTS]

    def _entity(self, environment: str) -> ApiKey:
        saved: SavedKey = getattr(self, environment)
        return ApiKey(
            id=saved.id,
            workspace_id=self.workspace_id,
            environment=environment,
            kind="secret",
            name=NAME,
            streams=None,
            prefix=display_prefix(saved.secret),
            digest=digest(saved.secret),
            created_at_ms=saved.at_ms,
        )


async def ensure_first_workspace(atlas: Atlas, data_dir: Path) -> FirstWorkspace:
    """The workspace and keys of this data directory, in the file and in the control log.

    If the file was lost, the workspace in the log gets new keys; so it does for a key that was ended.

    Raises:
        AtlasError: the file is damaged or cannot be used, or the log cannot take what is missing.
    """
    path = data_dir / FILE
    state = atlas.registry.state
    content = await asyncio.to_thread(
        read_or_create_private, path, lambda: msgspec.json.encode(_new(atlas, state))
    )
    wanted = _decode(content, path)
    if ended := _ended(state, wanted, atlas.world.clock.now_ms()):
        wanted = replace(wanted, **{environment: _new_key(atlas, environment) for environment in ended})
        await asyncio.to_thread(write_private, path, msgspec.json.encode(wanted))
    await _propose(atlas, wanted)
    return wanted


def _new(atlas: Atlas, state: ControlState) -> FirstWorkspace:
    """New keys, for the workspace that the log already has, or for a new one."""
    named = [workspace for workspace in state.workspaces.values() if workspace.name == NAME]
    return FirstWorkspace(
        workspace_id=named[0].id if named else atlas.ids.new("ws_"),
        command_id=atlas.ids.new("cmd_"),
        at_ms=atlas.world.clock.now_ms(),
        live=_new_key(atlas, "live"),
        test=_new_key(atlas, "test"),
    )


def _new_key(atlas: Atlas, environment: str) -> SavedKey:
    secret = make_key(environment, "secret", atlas.world.entropy(ENTROPY_BYTES))
    return SavedKey(atlas.ids.new("key_"), secret, atlas.world.clock.now_ms())


def _decode(content: bytes, path: Path) -> FirstWorkspace:
    try:
        saved = msgspec.json.decode(content, type=FirstWorkspace)
    except msgspec.DecodeError as error:
        # The decoder's own text would quote nothing secret, but neither would it help.
        raise AtlasError(f"{path} is damaged: move it away, and new keys are made") from error
    if not all(is_key(key.secret.encode()) for key in (saved.live, saved.test)):
        raise AtlasError(f"{path} holds no valid keys: move it away, and new ones are made")
    return saved


def _ended(state: ControlState, saved: FirstWorkspace, now_ms: int) -> list[str]:
    """Environments whose key somebody has revoked or rotated away."""
    known = {key.environment: state.keys.get(key.id) for key in saved.entities()}
    return [environment for environment, key in known.items() if key and not key.is_live(now_ms)]


async def _propose(atlas: Atlas, wanted: FirstWorkspace) -> None:
    """Ask for what the log does not have yet."""
    state, keys = atlas.registry.state, wanted.entities()
    if wanted.workspace_id not in state.workspaces:
        workspace = Workspace(id=wanted.workspace_id, name=NAME, created_at_ms=wanted.at_ms)
        await atlas.registry.propose(
            CreateWorkspace(id=wanted.command_id, at_ms=wanted.at_ms, workspace=workspace, keys=tuple(keys))
        )
    for key in keys:
        if key.digest not in state.keys_by_digest:
            command_id = atlas.ids.new("cmd_")
            await atlas.registry.propose(CreateKey(id=command_id, at_ms=key.created_at_ms, key=key))
