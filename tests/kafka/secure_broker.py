"""A broker that can be spoken to in every way that `KafkaSecurity` knows, a port for each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from atlas.adapters.kafka_settings import KafkaSecurity, KafkaSettings
from scripts.kafka_lib.broker import Broker, free_port
from tests.kafka.certificates import Authority
from tests.kafka_broker import own_broker

USERNAME: Final = "atlas"
PASSWORD: Final = "correct-horse-battery"
#: Listener by listener, its protocol.
PROTOCOL_BY_LISTENER: Final = {
    "PLAINTEXT": "PLAINTEXT",
    "CONTROLLER": "PLAINTEXT",
    "SCRAM": "SASL_SSL",
    "PLAIN": "SASL_PLAINTEXT",
    "MUTUAL": "SSL",
    "MISNAMED": "SSL",
}
_MODULE: Final = "org.apache.kafka.common.security"


class SecureBroker:
    """The broker and what its clients need.

    Attributes:
        authority: signed its certificates.
        stranger: an authority that nobody here trusts.
        client: certificate and key of a client.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory, "authority")
        self.stranger = Authority(directory, "stranger")
        self.client = self.authority.issue("client")
        self._ports = {name: free_port() for name in ("SCRAM", "PLAIN", "MUTUAL", "MISNAMED")}
        scram = f"SCRAM-SHA-512=[name={USERNAME},password={PASSWORD}]"
        self.broker: Broker = own_broker(directory, self._overrides(), ["--add-scram", scram])

    def settings(self, listener: str, security: KafkaSecurity, host: str = "127.0.0.1") -> KafkaSettings:
        """How a client finds and speaks to one of its listeners."""
        return KafkaSettings(bootstrap=f"{host}:{self._ports[listener]}", shards=2, security=security)

    def scram(self, password: str = PASSWORD, username: str = USERNAME) -> KafkaSecurity:
        """SASL_SSL, as an installation should have it."""
        return KafkaSecurity(
            tls=True,
            ca_file=str(self.authority.path),
            mechanism="SCRAM-SHA-512",
            username=username,
            password=password,
        )

    def plain(self, password: str = PASSWORD) -> KafkaSecurity:
        """SASL_PLAINTEXT."""
        return KafkaSecurity(mechanism="PLAIN", username=USERNAME, password=password)

    def mutual(self, cert_file: Path | None, ca_file: Path | None = None) -> KafkaSecurity:
        """TLS, with a certificate of the client's or without."""
        return KafkaSecurity(
            tls=True,
            ca_file=str(ca_file or self.authority.path),
            cert_file=None if cert_file is None else str(cert_file),
        )

    def _overrides(self) -> dict[str, str]:
        places = "PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"
        places += "".join(f",{name}://127.0.0.1:{port}" for name, port in self._ports.items())
        protocols = ",".join(f"{name}:{protocol}" for name, protocol in PROTOCOL_BY_LISTENER.items())
        here, elsewhere = ("127.0.0.1", "localhost"), ("elsewhere.example",)
        return {
            "listeners": places,
            "advertised.listeners": places,
            "listener.security.protocol.map": protocols,
            **_on("scram", self._keystore("broker-scram", here)),
            **_on("mutual", self._keystore("broker-mutual", here)),
            **_on("misnamed", self._keystore("broker-misnamed", elsewhere)),
            **_on("mutual", {"ssl.client.auth": "required", **_store("trust", self.authority.path)}),
            **_on("scram", {"sasl.enabled.mechanisms": "SCRAM-SHA-512"}),
            **_on("scram", {"scram-sha-512.sasl.jaas.config": f"{_MODULE}.scram.ScramLoginModule required;"}),
            **_on("plain", {"sasl.enabled.mechanisms": "PLAIN"}),
            **_on("plain", {"plain.sasl.jaas.config": _plain_users()}),
        }

    def _keystore(self, name: str, hosts: tuple[str, ...]) -> dict[str, str]:
        return _store("key", self.authority.issue(name, hosts))


def _on(listener: str, settings: dict[str, str]) -> dict[str, str]:
    return {f"listener.name.{listener}.{name}": value for name, value in settings.items()}


def _store(kind: str, path: Path) -> dict[str, str]:
    return {f"ssl.{kind}store.type": "PEM", f"ssl.{kind}store.location": str(path)}


def _plain_users() -> str:
    return f'{_MODULE}.plain.PlainLoginModule required user_{USERNAME}="{PASSWORD}";'
