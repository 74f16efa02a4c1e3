"""What a delivery target may be configured with: its URL and its own headers (API notes, "Workflows").

Which addresses may be dialled is another question, asked at every connection: see `addresses`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

from atlas.core.errors import InvalidRequest

URL_CHARS_MAX: Final = 2_048
PORT_MAX: Final = 65_535

HEADERS_MAX: Final = 20
HEADER_NAME_CHARS_MAX: Final = 128
HEADER_VALUE_CHARS_MAX: Final = 4_096

#: What is shown in place of a header's value, which is likely to be a credential.
MASK: Final = "****"

#: RFC 1035, 2.3.4: a name and each of its labels.
_HOST_CHARS_MAX: Final = 253
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+\](?::[0-9]*)?")
_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")

#: RFC 9110, 5.6.2 (token) and 5.5 (field-value, without obs-text: nobody agrees on its encoding).
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")

#: Set by Atlas itself, or about the connection and not the message (RFC 9110, 7.6.1), or a wrong
#: statement about the body that Atlas sends.
REFUSED_HEADERS: Final = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
REFUSED_HEADER_PREFIXES: Final = ("proxy-", "webhook-", "x-atlas-")


def check_url(url: str) -> None:
    """Refuse what cannot be a target: http or https, a host, no userinfo, no fragment, 2,048 characters.

    Raises:
        InvalidRequest: with field `url`.
    """
    if len(url) > URL_CHARS_MAX:
        raise _bad_url(f"at most {URL_CHARS_MAX:,} characters")
    # Before any parsing: urlsplit silently drops tabs and line ends, and browsers read \ as /.
    if not url.isprintable() or any(char.isspace() or char == "\\" for char in url):
        raise _bad_url("no white space, control characters or backslashes; percent-encode them")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad_url("not a well-formed URL, or a port that is none") from error
    if parts.scheme not in ("http", "https"):
        raise _bad_url("must start with http:// or https://")
    if "@" in parts.netloc:
        raise _bad_url("must not carry a user name or password")
    if "#" in url:
        raise _bad_url("must not carry a fragment")
    if port == 0:
        raise _bad_url(f"the port must be 1 to {PORT_MAX:,}")
    _check_host(parts)


def normal_url(url: str) -> str:
    """A URL that passed `check_url`, its scheme in lower case.

    Its case says nothing (RFC 3986, 3.1), and who reads our answers and records need not know that.
    """
    scheme, separator, rest = url.partition("://")
    return scheme.lower() + separator + rest


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that are malformed, too many, too long, Atlas's own, or the connection's.

    Raises:
        InvalidRequest: with field `headers.<name>`, or `headers` when there are too many.
    """
    if len(headers) > HEADERS_MAX:
        raise InvalidRequest("headers", f"at most {HEADERS_MAX} headers")
    seen: set[str] = set()
    for name, value in headers.items():
        reason = _wrong_name(name) or _wrong_value(value)
        if reason is None and name.lower() in seen:
            reason = "given twice; upper and lower case are the same"
        if reason is not None:
            raise InvalidRequest(f"headers.{name[:HEADER_NAME_CHARS_MAX]}", reason)
        seen.add(name.lower())


def mask_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers as they are shown: every name, no value."""
    return dict.fromkeys(headers, MASK)


def unmasked(headers: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Headers as they are meant: a value that comes back as it is shown stays what it was."""
    known = {name.lower(): value for name, value in before.items()}
    return {
        name: known.get(name.lower(), value) if value == MASK else value for name, value in headers.items()
    }


def _bad_url(reason: str) -> InvalidRequest:
    return InvalidRequest("url", reason)


def _check_host(parts: SplitResult) -> None:
    host = parts.hostname
    if not host:
        raise _bad_url("must name a host")
    # urlsplit takes what is between the brackets and overlooks what stands around them.
    if "[" in parts.netloc and not _BRACKETED.fullmatch(parts.netloc):
        raise _bad_url("not a host name")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise _bad_url("not an IPv6 address") from error
        return
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise _bad_url("not a host name") from error
    if len(ascii_host) > _HOST_CHARS_MAX or not _HOST.fullmatch(ascii_host):
        raise _bad_url("not a host name")


def _wrong_name(name: str) -> str | None:
    lower = name.lower()
    if not _TOKEN.fullmatch(name):
        return "a header's name is made of letters, digits and !#$%&'*+-.^_`|~"
    if len(name) > HEADER_NAME_CHARS_MAX:
        return f"a header's name has at most {HEADER_NAME_CHARS_MAX} characters"
    if lower in REFUSED_HEADERS or lower.startswith(REFUSED_HEADER_PREFIXES):
        return "set by Atlas or by the connection"
    return None


def _wrong_value(value: str) -> str | None:
    if len(value) > HEADER_VALUE_CHARS_MAX:
        return f"a header's value has at most {HEADER_VALUE_CHARS_MAX:,} characters"
    if not _VALUE.fullmatch(value):
        return "a header's value is printable ASCII, with spaces and tabs inside only"
    return None
