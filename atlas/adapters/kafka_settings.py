"""What an installation says about its Kafka cluster, and what every client of it shares."""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import Any, Final

import msgspec

from atlas.core.errors import LogError

#: A request unanswered for this long is given up with its connection; the next one makes another.
REQUEST_TIMEOUT_S: Final = 5.0
#: Between two tries of one request.
BACKOFF_S: Final = 0.1
#: Connections of readers that are gone close themselves.
IDLE_MAX_S: Final = 120.0


class KafkaSecurity(msgspec.Struct, frozen=True, kw_only=True):
    """How to speak to the brokers.

    Attributes:
        tls: encrypt; certificates are checked against the system's, or those of `ca_file`.
        ca_file: path of a PEM bundle, or None.
        cert_file: path of the certificate (PEM, with its chain) that says who we are, or None.
        key_file: path of its key (PEM, not encrypted); None: it lies in `cert_file`.
        mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; with `username` only.
        username: None: no SASL.

    Files are read once: a process takes renewed ones when it is started again.
    """

    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    mechanism: str = "PLAIN"
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        """Without the password."""
        return f"KafkaSecurity(tls={self.tls}, mechanism={self.mechanism}, username={self.username})"


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One installation's cluster.

    Attributes:
        bootstrap: `host:port`, or several with commas.
        shards: partitions of every event topic and of the lifecycle topic; fixed at installation.
        replication: copies of each partition; fewer where there are fewer brokers.
        min_insync: copies that must hold a record before it counts as durable.
        client_id: how this process shows in the brokers' logs.
    """

    bootstrap: str
    shards: int = 6
    replication: int = 3
    min_insync: int = 2
    client_id: str = "atlas"
    security: KafkaSecurity = KafkaSecurity()

    def client_options(self) -> dict[str, Any]:
        """Arguments that every aiokafka client takes.

        Raises:
            LogError: the settings contradict each other, or a file of theirs cannot be used.
        """
        security = self.security
        if security.username is not None and not security.password:
            raise LogError("a user name for Kafka needs a password")
        if not security.tls and (security.ca_file, security.cert_file) != (None, None):
            raise LogError("certificates for Kafka need TLS")
        protocol = ("SASL_" if security.username is not None else "") + (
            "SSL" if security.tls else "PLAINTEXT"
        )
        return {
            "bootstrap_servers": self.bootstrap,
            "client_id": self.client_id,
            "request_timeout_ms": int(REQUEST_TIMEOUT_S * 1_000),
            "retry_backoff_ms": int(BACKOFF_S * 1_000),
            "connections_max_idle_ms": int(IDLE_MAX_S * 1_000),
            "security_protocol": protocol,
            "ssl_context": _context(security.ca_file, security.cert_file, security.key_file)
            if security.tls
            else None,
            "sasl_mechanism": security.mechanism,
            "sasl_plain_username": security.username,
            "sasl_plain_password": security.password,
        }


@lru_cache(maxsize=8)  # the system's certificates take 20 ms to read, and every client needs them
def _context(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise LogError(f"the certificates in {ca_file} cannot be used: {error}") from error
    if cert_file is not None:
        try:
            # Without a word for it OpenSSL would ask for the password of an encrypted key on the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
        except (OSError, ValueError) as error:
            what = cert_file if key_file is None else f"{cert_file} with {key_file}"
            raise LogError(f"the certificate in {what} cannot be used: {error}") from error
    return context
