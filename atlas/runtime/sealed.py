"""Whether the master key is the one that the installation's secrets were sealed with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from atlas.core.control import ControlState
from atlas.core.entities import Target, secret_context
from atlas.core.errors import AtlasError
from atlas.ports.secret_box import SecretBox

#: So many that do not open are enough: others may have written some of them.
_TRIED_MAX: Final = 1_000


def check_master_key(state: ControlState, box: SecretBox) -> None:
    """With another key every attempt would fail, and its target be blamed.

    Raises:
        AtlasError: there are signing secrets, and it opens none of them.
    """
    tried = 0
    for target in _targets(state):
        for secret in target.secrets:
            try:
                box.open(secret.sealed, secret_context(target.workspace_id, target.environment, target.id))
            except AtlasError:
                tried += 1
            else:
                return
        if tried >= _TRIED_MAX:
            break
    if tried:
        raise AtlasError("the master key is not the one that the signing secrets in the log were sealed with")


def _targets(state: ControlState) -> Iterator[Target]:
    for by_scope in (state.workflows, state.endpoints):
        for by_id in by_scope.values():
            yield from by_id.values()
