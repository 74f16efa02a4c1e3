"""Why none of the brokers could be used: aiokafka's client only says that it was so.

Asked once it has failed, by one more connection to each. A broker that is away may come back; one that
refuses our name, or shows a certificate that we refuse, will do so however often it is tried.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from atlas.adapters.kafka_settings import KafkaSettings
from atlas.core.errors import LogError

_REFUSALS: Final = (
    ssl.SSLError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    IllegalSaslStateError,
)
#: Arguments of a client that one connection does not have.
_OF_THE_CLIENT: Final = {"bootstrap_servers", "retry_backoff_ms", "connections_max_idle_ms"}


async def raise_reason(settings: KafkaSettings, hosts: list[tuple[str, int, Any]]) -> None:
    """Raise why no broker could be used; returns when one can be by now.

    Raises:
        LogError: one refused us, or we it.
        KafkaConnectionError: none answers.
    """
    options = {name: value for name, value in settings.client_options().items() if name not in _OF_THE_CLIENT}
    failures = await asyncio.gather(*(_failure(host, port, options) for host, port, _ in hosts))
    if None in failures:
        return
    told = {f"{host}:{port}": error for (host, port, _), error in zip(hosts, failures, strict=True)}
    for place, error in told.items():
        if isinstance(error, _REFUSALS):
            raise LogError(f"Kafka at {place} cannot be used: {_words(error, settings)}") from error
    raise KafkaConnectionError("; ".join(f"{place}: {error}" for place, error in told.items()))


async def _failure(host: str, port: int, options: dict[str, Any]) -> BaseException | None:
    try:
        connection = await create_conn(host, port, **options)
    except (KafkaError, OSError, TimeoutError) as error:
        return _cause(error)
    await connection.close()
    return None


def _cause(error: BaseException) -> BaseException:
    """A refusal during the conversation breaks the connection, and is only its cause."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, _REFUSALS):
            return seen
        seen = seen.__cause__
    return error


def _words(error: BaseException, settings: KafkaSettings) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}"
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"it does not offer {settings.security.mechanism}"
    return f"it refuses our user name or password: {error}"
