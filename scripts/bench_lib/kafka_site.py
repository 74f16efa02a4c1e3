"""A broker of the measurement's own, and Atlas's processes on it as a user starts them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from atlas.installation_secrets import operator_token
from scripts.bench_lib.deployment import Server, Site, site
from scripts.bench_lib.worker import Process
from scripts.kafka_lib.broker import Broker, NoBroker

_ATLAS: Final = str(Path(sys.executable).with_name("atlas"))
_ONE_BROKER: Final = ("--kafka-replication", "1", "--kafka-min-insync", "1")
#: See `kafka_warm`.
_WARM_UP_S: Final = 30.0
_NO_LIMIT: Final = ("--quota-per-minute", "60000000", "--quota-burst", "1000000")


class KafkaSite:
    """Where a measurement runs.

    Attributes:
        place: for what is no part of Atlas.
        bootstrap: the broker's address.
    """

    def __init__(self, place: Site, bootstrap: str) -> None:
        self.place, self.bootstrap = place, bootstrap
        self._data_dir = place.directory / "data"

    @contextmanager
    def gateway(self, server: str) -> Iterator[Server]:
        """A gateway, one at a time."""
        with self._part(
            "gateway", "--first-workspace", "--port", "0", "--server", server, *_NO_LIMIT
        ) as part:
            yield Server(part, part.ready["live_secret_key"], operator_token(self._data_dir))

    def projector(self) -> Process:
        """A projector, to be entered."""
        return self._part("projector", "--ops-port", "0")

    def deliverer(self) -> Process:
        """A deliverer, to be entered; there must have been a gateway, which makes the master key."""
        return self._part("deliverer", "--ops-port", "0", "--allow-networks", "127.0.0.0/8")

    def _part(self, role: str, *arguments: str) -> Process:
        common = ["--json", "--supervised", "--kafka", self.bootstrap, "--data-dir", str(self._data_dir)]
        return Process(f"atlas {role}", [_ATLAS, role, *common, *_ONE_BROKER, *arguments])


@contextmanager
def kafka_site(directory: Path) -> Iterator[KafkaSite]:
    """A broker without data, but warm; nothing of it is left."""
    with site(directory) as place:
        broker = Broker(place.directory / "broker", java_options=())  # as in production, for a long time
        try:
            bootstrap = broker.start()
            place.worker("kafka_warm", bootstrap).ask({"seconds": _WARM_UP_S})
            yield KafkaSite(place, bootstrap)
        except NoBroker as error:
            raise RuntimeError(f"no broker: {error}") from error
        finally:
            broker.stop()
