"""The address guard at the socket, TLS, and name look-ups that cannot hold other targets up."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from atlas.adapters.http_sender import HttpSender
from atlas.adapters.resolver import FAILURES_MAX, ThreadResolver
from atlas.core.addresses import LOOPBACK, Network
from tests.raw_server import (
    OK,
    SHORT_MS,
    FixedClock,
    a_sender,
    no_faults,
    plain,
    post,
    says,
    says_then_hangs,
    serve,
)


class Scripted(AbstractResolver):
    """A name server that gives one answer after the other, the last of them for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in answer
        ]

    async def close(self) -> None:
        pass


def a_guarded_sender(
    allow: tuple[Network, ...] = (),
    resolver: AbstractResolver | None = None,
    ca_file: Path | None = None,
    dns_ttl_s: int = 0,
) -> HttpSender:
    return HttpSender(FixedClock(), allow, resolver=resolver, ca_file=ca_file, dns_ttl_s=dns_ttl_s)


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    async with no_faults():
        yield


# --- the guard


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0.0.0.0",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[0:0:0:0:0:0:0:1]",
        "①②⑦.⓪.⓪.①",  # normalised to 127.0.0.1 on the way
    ],
)
async def test_a_private_address_is_refused_before_any_connection(host: str) -> None:
    sender = a_guarded_sender()
    async with serve(says(OK)) as target:
        result = await post(sender, f"http://{host}:{target.port}/")
        assert target.connections == 0
    await sender.close()
    assert (result.error_code, result.http_status) == ("upstream_blocked", None)
    message = result.error_message or ""
    assert message.startswith("Target's address is not allowed: ")
    assert "127" not in message
    assert result.connect_ms is None


async def test_the_result_names_the_address_refused_but_its_message_does_not() -> None:
    sender = a_guarded_sender(resolver=Scripted(["10.1.2.3"]))
    result = await post(sender, "http://inner.example/")
    await sender.close()
    assert (result.error_code, result.address) == ("upstream_blocked", "10.1.2.3")
    assert result.error_message == "Target's address is not allowed: private use"


@pytest.mark.parametrize("allow", [(), LOOPBACK])
async def test_a_name_is_judged_by_what_it_resolves_to(allow: tuple[Network, ...]) -> None:
    sender = a_guarded_sender(allow, Scripted(["127.0.0.1"]))
    async with serve(says(OK)) as target:
        result = await post(sender, f"http://public.example:{target.port}/")
        assert target.connections == len(allow[:1])
    await sender.close()
    assert result.error_code == (None if allow else "upstream_blocked")


async def test_a_name_that_turns_private_between_two_connections_is_refused() -> None:
    """DNS rebinding: what counts is the address of each connection, not of the first."""
    resolver = Scripted(["127.0.0.1"], ["169.254.169.254"])
    sender = a_guarded_sender(LOOPBACK, resolver)
    async with serve(says(plain("200 OK", "Connection: close"))) as target:
        url = f"http://rebinding.example:{target.port}/"
        assert (await post(sender, url)).error_code is None
        second = await post(sender, url)
        assert (second.error_code, second.address) == ("upstream_blocked", "169.254.169.254")
        assert (target.connections, resolver.asked) == (1, 2)
    await sender.close()


@pytest.mark.parametrize(
    "addresses",
    [["10.0.0.1", "10.0.0.2"], ["10.0.0.1", "fd00::1", "169.254.169.254"], ["fe80::1%1", "::1"]],
)
async def test_many_private_addresses_are_one_refusal(addresses: list[str]) -> None:
    sender = a_guarded_sender(resolver=Scripted(addresses))
    assert (await post(sender, "http://many.example/")).error_code == "upstream_blocked"
    await sender.close()


async def test_of_a_mixed_answer_only_the_allowed_address_is_dialled() -> None:
    sender = a_guarded_sender(LOOPBACK, Scripted(["10.0.0.1", "127.0.0.1"]))
    async with serve(says(OK)) as target:
        result = await post(sender, f"http://mixed.example:{target.port}/")
    await sender.close()
    assert (result.error_code, result.address) == (None, "127.0.0.1")


async def test_an_answer_of_the_resolver_is_used_for_a_while() -> None:
    resolver = Scripted(["127.0.0.1"])
    sender = a_guarded_sender(LOOPBACK, resolver, dns_ttl_s=60)
    async with serve(says(plain("200 OK", "Connection: close"))) as target:
        for _ in range(3):
            await post(sender, f"http://cached.example:{target.port}/")
        assert (target.connections, resolver.asked) == (3, 1)
    await sender.close()


# --- TLS


def certificate(directory: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a self-signed certificate for `name`, and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "certificate.pem"
    pem.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    both = directory / "both.pem"
    both.write_bytes(
        pem.read_bytes()
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, pem


async def tls_succeeds(directory: Path) -> None:
    context, pem = certificate(directory, "127.0.0.1")
    sender = a_guarded_sender(LOOPBACK, ca_file=pem)
    async with serve(says(OK), tls=context) as target:
        url = target.url.replace("http:", "https:")
        result, again = await post(sender, url), await post(sender, url)
        assert target.connections == 1
        await sender.close()
        await target.all_closed()
    assert (result.http_status, result.error_code) == (200, None)
    assert result.connect_ms is not None
    assert result.tls_ms is not None
    assert result.first_byte_ms is not None
    assert 0 < result.connect_ms < result.connect_ms + result.tls_ms <= result.first_byte_ms + 0.01
    assert (again.connect_ms, again.tls_ms, again.address) == (None, None, "127.0.0.1")


async def tls_is_verified(directory: Path) -> None:
    context, _ = certificate(directory, "127.0.0.1")
    sender = a_guarded_sender(LOOPBACK)
    async with serve(says(OK), tls=context) as target:
        result = await post(sender, target.url.replace("http:", "https:"))
        assert target.requests == []
    await sender.close()
    assert (result.http_status, result.error_code) == (None, "upstream_tls")
    assert "self" in (result.error_message or "")


async def tls_to_a_plain_port(_: Path) -> None:
    for data in (b"", plain("400 Bad Request")):
        sender = a_guarded_sender(LOOPBACK)
        async with serve(says(data, then_close=True), reads=False) as target:
            result = await post(sender, target.url.replace("http:", "https:"))
        await sender.close()
        assert result.error_code == "upstream_tls"
        assert result.error_message == "TLS handshake with the target failed"


async def a_handshake_that_hangs(_: Path) -> None:
    sender = a_guarded_sender(LOOPBACK)
    async with serve(says_then_hangs(b""), reads=False) as target:
        result = await post(sender, target.url.replace("http:", "https:"), SHORT_MS)
        await target.all_closed()
    await sender.close()
    assert result.error_code == "upstream_timeout"


async def a_certificate_for_another_name(directory: Path) -> None:
    context, pem = certificate(directory, "another.example")
    sender = a_guarded_sender(LOOPBACK, ca_file=pem)
    async with serve(says(OK), tls=context) as target:
        result = await post(sender, target.url.replace("http:", "https:"))
    await sender.close()
    assert result.error_code == "upstream_tls"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize(
    "case",
    [
        tls_succeeds,
        tls_is_verified,
        tls_to_a_plain_port,
        a_handshake_that_hangs,
        a_certificate_for_another_name,
    ],
)
def test_tls(
    run: Callable[[Awaitable[None]], None], case: Callable[[Path], Awaitable[None]], tmp_path: Path
) -> None:
    async def main() -> None:
        async with no_faults():
            await case(tmp_path)

    run(main())


# --- names


async def test_a_name_that_does_not_exist() -> None:
    async with a_sender() as sender:
        result = await post(sender, "http://does-not-exist.invalid/")
    assert result.error_code == "upstream_unreachable"
    assert result.error_message == "Target's name could not be resolved"


class NameServer:
    """Stands in for the system's resolver: answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.let = threading.Event()

    def addresses(self, host: str) -> list[str]:
        self.asked.append(host)
        if host.startswith("dead"):
            self.let.wait(30)
            return []
        return ["127.0.0.1"]


@pytest.fixture
def names() -> Iterator[NameServer]:
    names = NameServer()
    yield names
    names.let.set()


async def test_a_name_server_that_hangs_ends_with_the_attempt_and_delays_no_other(names: NameServer) -> None:
    sender = a_guarded_sender(LOOPBACK, ThreadResolver(look_up=names.addresses))
    async with serve(says(OK)) as target:
        stuck = await asyncio.gather(*(post(sender, f"http://dead{n}/", SHORT_MS) for n in range(40)))
        assert {result.error_code for result in stuck} == {"upstream_timeout"}
        alive = await post(sender, f"http://alive:{target.port}/")
    await sender.close()
    assert alive.error_code is None


async def test_a_look_up_has_a_deadline_and_a_failure_is_remembered(names: NameServer) -> None:
    resolver = ThreadResolver(deadline_s=0.05, look_up=names.addresses)
    for _ in range(3):
        with pytest.raises(OSError, match="could not be resolved"):
            await resolver.resolve("dead", 80)
    assert names.asked == ["dead"]


async def test_one_look_up_serves_all_who_ask_meanwhile_whatever_the_port(names: NameServer) -> None:
    resolver = ThreadResolver(look_up=names.addresses)
    answers = await asyncio.gather(*(resolver.resolve("alive", port) for port in (80, 81, 82)))
    assert [answer[0]["port"] for answer in answers] == [80, 81, 82]
    assert {answer[0]["host"] for answer in answers} == {"127.0.0.1"}
    assert names.asked == ["alive"]


async def test_look_ups_at_a_time_are_bounded(names: NameServer) -> None:
    resolver = ThreadResolver(deadline_s=0.05, lookups_max=2, look_up=names.addresses)
    answers = await asyncio.gather(
        *(resolver.resolve(f"dead{n}", 80) for n in range(5)), return_exceptions=True
    )
    assert all(isinstance(answer, OSError) for answer in answers)
    assert len(names.asked) == 2


async def test_the_memory_of_failures_is_bounded() -> None:
    resolver = ThreadResolver()
    for n in range(FAILURES_MAX + 10):
        resolver._remember_failure(f"name{n}")
    assert len(resolver._failed_until_s) == FAILURES_MAX
    assert "name9" not in resolver._failed_until_s


async def test_odd_names_are_failures_and_not_errors() -> None:
    async with a_sender() as sender:
        for host in ("a" * 64 + ".example", "..", "a..b", "-", "xn--a", "_"):
            result = await post(sender, f"http://{host}/")
            assert result.error_code == "upstream_unreachable", host
