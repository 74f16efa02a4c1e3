"""TLS and SASL to a real broker: everything works through them, and what is wrong is said at once."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop

from atlas.adapters.kafka_acceptor import KafkaAcceptor
from atlas.adapters.kafka_fence import fence
from atlas.adapters.kafka_group import KafkaMember
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSecurity, KafkaSettings
from atlas.adapters.system_clock import SystemClock
from atlas.core.errors import LogError, LogUnavailable
from atlas.ports.log import TopicPartition
from tests.conformance.log_deployments import AT_ONCE_S, read_all, records, values
from tests.conformance.test_acceptor import CONFLICT, appended, candidate, replayed
from tests.kafka.control import Control
from tests.kafka.faults.site import until
from tests.kafka.secure_broker import PASSWORD, SecureBroker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
#: What is refused is refused by the first answer; waiting for a request's deadline would take 5 s.
REFUSED_MAX_S: Final = 4.0
WRONG_PASSWORD: Final = "wrong-horse-battery"


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Decorator: run as in production. uvloop has a TLS of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*arguments, **named))

    return run


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    made = SecureBroker(tmp_path_factory.mktemp("secure"))
    made.broker.start()
    try:
        yield made
    finally:
        made.broker.stop()


@pytest.fixture(autouse=True)
async def goodbyes() -> AsyncIterator[None]:
    """A test ends when its sockets are closed.

    TLS waits for the broker's goodbye, and aiokafka does not wait for TLS once a broker has refused it: a
    loop that was closed before left a socket for the garbage collector to complain of in some later test.
    """
    yield
    transports = asyncio.get_running_loop()._transports  # type: ignore[attr-defined]  # selector loops have it

    async def closed() -> bool:
        return all(transport.get_extra_info("socket").fileno() < 0 for transport in list(transports.values()))

    await until(closed, "every socket closed", REFUSED_MAX_S)


WAYS: Final[dict[str, Callable[[SecureBroker], KafkaSecurity]]] = {
    "SCRAM": lambda secure: secure.scram(),
    "PLAIN": lambda secure: secure.plain(),
    "MUTUAL": lambda secure: secure.mutual(secure.client),
}


@pytest.mark.parametrize("listener", WAYS)
async def test_everything_works(secure: SecureBroker, listener: str, tmp_path: Path) -> None:
    log = await KafkaLog.open(secure.settings(listener, WAYS[listener](secure)), SystemClock())
    topic = f"secure-{uuid.uuid4().hex}"
    source = TopicPartition(topic, 0)
    try:
        await log.create_topic(topic, 1, None)
        assert await log.append(topic, 0, records("a", "b")) == 0
        assert values(await read_all(log, source)) == [b"a", b"b"]
        await check_group(log, source)
        await check_acceptance(log, source, tmp_path / "keys.db")
    finally:
        await log.close()


async def check_group(log: KafkaLog, source: TopicPartition) -> None:
    """The member has a connection of its own."""
    member = await log.join(f"group-{source.topic}", source.topic)
    async with asyncio.timeout(3 * AT_ONCE_S):
        assert await member.assignment_changed(frozenset()) == {0}
    await member.commit({0: 2})
    assert await log.committed(f"group-{source.topic}", source) == 2
    await member.leave()


async def check_acceptance(log: KafkaLog, source: TopicPartition, index: Path) -> None:
    """Through the producer, and through the one that takes its place once it is fenced."""
    clock = SystemClock()
    control = await Control.open(log, clock)
    acceptor = await KafkaAcceptor.open(log, index, clock, control.producers)
    await acceptor.recovered()
    first, second = (candidate(source.topic, name, "payload", f"answer {name}") for name in ("k", "l"))
    assert await acceptor.accept([first]) == [appended(first)]
    assert await acceptor.accept([first]) == [replayed(first)]
    fenced = await log.producer.owner()
    await fence(log.cluster, fenced, [source])
    with pytest.raises(LogUnavailable):
        await acceptor.accept([second])
    assert await acceptor.accept([second]) == [appended(second)]
    assert await acceptor.accept([candidate(source.topic, "l", "another")]) == [CONFLICT]
    assert await log.producer.owner() != fenced
    await acceptor.close()
    await control.close()


# --- what is refused


async def refusal(settings: KafkaSettings) -> str:
    """What opening the log is refused with, at once and for good."""
    async with asyncio.timeout(REFUSED_MAX_S):
        with pytest.raises(LogError) as raised:
            await KafkaLog.open(settings, SystemClock())
    assert not isinstance(raised.value, LogUnavailable)
    return str(raised.value)


@pytest.mark.parametrize("listener", ["SCRAM", "PLAIN"])
async def test_a_wrong_password_is_refused_and_not_repeated(
    secure: SecureBroker, listener: str, caplog: pytest.LogCaptureFixture
) -> None:
    security = {"SCRAM": secure.scram, "PLAIN": secure.plain}[listener](WRONG_PASSWORD)
    with caplog.at_level(logging.INFO):
        message = await refusal(secure.settings(listener, security))
    assert "refuses our user name or password" in message
    shown = f"{message} {caplog.text} {security!r}"
    assert WRONG_PASSWORD not in shown


async def test_an_unknown_user_is_refused(secure: SecureBroker) -> None:
    message = await refusal(secure.settings("SCRAM", secure.scram(username="nobody")))
    assert "refuses our user name or password" in message


async def test_a_mechanism_that_the_broker_lacks_is_named(secure: SecureBroker) -> None:
    message = await refusal(
        secure.settings("PLAIN", KafkaSecurity(mechanism="SCRAM-SHA-256", username="a", password="b"))
    )
    assert "SCRAM-SHA-256" in message


async def test_a_broker_of_an_unknown_authority_is_refused(secure: SecureBroker) -> None:
    for ca_file in (secure.stranger.path, None):
        security = KafkaSecurity(tls=True, ca_file=str(ca_file) if ca_file else None)
        message = await refusal(secure.settings("MUTUAL", security))
        assert "its certificate is refused: " in message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_for_another_name_is_refused(secure: SecureBroker, host: str) -> None:
    message = await refusal(secure.settings("MISNAMED", secure.mutual(None), host))
    assert f"Kafka at {host}:" in message
    assert "mismatch" in message


async def test_a_client_without_a_certificate_or_with_a_strangers_is_refused(secure: SecureBroker) -> None:
    for cert_file in (None, secure.stranger.issue("impostor")):
        assert "TLS fails: " in await refusal(secure.settings("MUTUAL", secure.mutual(cert_file)))


async def test_the_other_protocol_ends_in_one_error(secure: SecureBroker) -> None:
    for listener, security in (("MUTUAL", KafkaSecurity()), ("PLAIN", secure.mutual(None))):
        with pytest.raises(LogError, match="Kafka"):
            await KafkaLog.open(secure.settings(listener, security), SystemClock())


async def test_every_client_of_a_log_is_as_secure(secure: SecureBroker) -> None:
    """The broker knows its clients by name; none of them came another way."""
    settings = secure.settings("SCRAM", secure.scram())
    contexts = {id(settings.client_options()["ssl_context"]) for _ in range(3)}
    assert len(contexts) == 1
    log = await KafkaLog.open(settings, SystemClock())
    topic = f"secure-{uuid.uuid4().hex}"
    try:
        await log.create_topic(topic, 1, None)
        member = await log.join("secure", topic)
        async with asyncio.timeout(3 * AT_ONCE_S):
            await member.assignment_changed(frozenset())
        assert isinstance(member, KafkaMember)
        assert log.producer._producer is not None
        assert member._membership is not None
        clients = [log.cluster._client, log.producer._producer.producer.client, member._membership._client]
        for client in clients:
            assert (client._security_protocol, client._sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-512")
            assert id(client._ssl_context) in contexts
            assert PASSWORD not in f"{client!r} {client}"
    finally:
        await log.close()


# --- settings that cannot work


@pytest.mark.parametrize(
    ("security", "reason"),
    [
        (KafkaSecurity(username="u"), "needs a password"),
        (KafkaSecurity(ca_file="ca.pem"), "need TLS"),
        (KafkaSecurity(cert_file="c.pem"), "need TLS"),
        (KafkaSecurity(tls=True, ca_file="/nowhere/ca.pem"), "/nowhere/ca.pem cannot be used"),
        (KafkaSecurity(tls=True, cert_file="/nowhere/c.pem", key_file="k"), "c.pem with k cannot be used"),
    ],
)
@on_uvloop
async def test_settings_that_cannot_work_are_refused(security: KafkaSecurity, reason: str) -> None:
    with pytest.raises(LogError, match=reason):
        await KafkaLog.open(KafkaSettings(bootstrap="127.0.0.1:1", security=security), SystemClock())


@on_uvloop
async def test_an_encrypted_key_is_refused_and_nobody_asked(secure: SecureBroker) -> None:
    encrypted = secure.authority.issue("encrypted", password=b"secret")
    assert "encrypted.pem cannot be used" in await refusal(
        secure.settings("MUTUAL", secure.mutual(encrypted))
    )
