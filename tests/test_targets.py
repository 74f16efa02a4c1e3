"""What a target may be configured with, at every limit and one past it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from atlas.core.errors import InvalidRequest
from atlas.core.targets import (
    HEADER_NAME_CHARS_MAX,
    HEADER_VALUE_CHARS_MAX,
    HEADERS_MAX,
    MASK,
    URL_CHARS_MAX,
    check_headers,
    check_url,
    mask_headers,
    normal_url,
)


@pytest.mark.parametrize(
    "url",
    [
        "http://a",
        "https://hooks.acme.example/atlas",
        "HTTPS://Hooks.Acme.Example:8443/a/b;c?d=e&f=%2Fg#"[:-1],
        "http://localhost:1/",
        "http://localhost:65535",
        "http://host.:80/",
        "http://under_score.example/",
        "http://127.0.0.1:8081/hook",
        "http://2130706433/",  # the guard's business
        "http://[::1]:8080/",
        "http://[::ffff:127.0.0.1]/",
        "http://xn--bcher-kva.example/",
        "http://bücher.example/ü?ü=ü",
        "http://example.com/a{b}|c",
        "http://example.com?q=a@b",
        "http://" + "a" * 63 + ".example/",
    ],
)
def test_good_urls(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/",
        "example.com",
        "//example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http:example.com",
        "http:/example.com",
        "http://",
        "http:///path",
        "http://?q",
        "http://:80/",
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com/#",
        "http://example.com/#fragment",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:-1/",
        "http://example.com:8a/",
        "http://example.com:\uff18\uff10/",
        "http://example.com:80:90/",
        "http://a..b/",
        "http://.example/",
        "http://exa mple.com/",
        " http://example.com/",
        "http://example.com/ ",
        "http://example.com/a b",
        "http://example.com/\t",
        "http://exam\nple.com/",
        "http://example.com/\r\nHost: evil",
        "http://example.com/\x00",
        "http://example.com/\x7f",
        "http://example.com/\u200b",
        "http://example.com/\u2028",
        "http://example.com/\ud800",
        "http://example.com\\@evil.example/",
        "http://%31%32%37.0.0.1/",
        "http://exa%00mple.com/",
        "http://[::1/",
        "http://::1/",
        "http://[::1]evil.example/",
        "http://evil[::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[v1.fe80::a]/",
        "http://[127.0.0.1]/",
        "http://[:::]/",
        "http://a,b/",
        "http://" + "a" * 64 + ".example/",
        "http://" + "a." * 127 + "a/",
        "http://\ufe13example.com/",
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_url(url)
    assert caught.value.field == "url"


def test_the_length_of_a_url() -> None:
    longest = "http://example.com/".ljust(URL_CHARS_MAX, "x")
    check_url(longest)
    with pytest.raises(InvalidRequest):
        check_url(longest + "x")


def test_the_scheme_is_in_lower_case_and_nothing_else_changes() -> None:
    assert normal_url("HTTPS://Hooks.Example:8443/A://B?C=D") == "https://Hooks.Example:8443/A://B?C=D"
    assert normal_url("Http://[::FFFF:127.0.0.1]/") == "http://[::FFFF:127.0.0.1]/"


url_like = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https"]),
    st.text("ab1.-_[]:@%\\ü\uff10", max_size=12),
    st.sampled_from(["", ":", ":80", ":0", ":99999", ":\uff18"]),
    st.text("/ab?=&%2{}|ü ;:@[]", max_size=12),
)


@given(url_like | st.text(max_size=40))
def test_whatever_passes_is_read_the_same_by_the_client(url: str) -> None:
    """Two parsers that disagree on where the host ends are how such checks are got round."""
    try:
        check_url(url)
    except InvalidRequest:
        return
    parsed = URL(url)
    assert parsed.scheme in ("http", "https")
    assert parsed.host
    assert parsed.user is None
    assert parsed.password is None
    assert not parsed.raw_fragment
    assert 1 <= (parsed.port or 0) <= 65_535


def test_good_headers() -> None:
    check_headers({})
    check_headers({"Authorization": "Bearer x y", "X-Empty": "", "X-Tab": "a\tb", "!#$%&'*+-.^_`|~": "~"})
    check_headers(
        {"Cookie": "a=b", "User-Agent": "me", "Accept": "text/plain", "X-Atlas": "1", "Webhook": "1"}
    )


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "hOST",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Keep-Alive",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Content-Type",
        "Content-Encoding",
        "X-Atlas-Signature",
        "x-atlas-anything",
        "webhook-id",
        "Webhook-Signature",
        "",
        "with space",
        "colon:",
        "X-Line\r\nHost",
        "X-Null\0",
        "Ünicode",
        "a/b",
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_headers({"X-Fine": "1", name: "1"})
    assert caught.value.field == f"headers.{name}"


@pytest.mark.parametrize(
    "value", ["a\r\nb", "a\n", "a\rb", "a\0b", "a\x7f", " a", "a ", "\ta", "é", "\ud800"]
)
def test_values_that_are_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_headers({"X-Value": value})
    assert caught.value.field == "headers.X-Value"
    assert value.strip() not in caught.value.reason or len(value) < 3


def test_one_name_in_two_cases_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        check_headers({"X-A": "1", "x-a": "2"})


def test_how_many_and_how_long() -> None:
    name, value = "n" * HEADER_NAME_CHARS_MAX, "v" * HEADER_VALUE_CHARS_MAX
    most = {f"X-{n}": "1" for n in range(HEADERS_MAX - 1)} | {name: value}
    check_headers(most)
    with pytest.raises(InvalidRequest) as too_many:
        check_headers(most | {"X-One-More": "1"})
    assert too_many.value.field == "headers"
    with pytest.raises(InvalidRequest) as long_name:
        check_headers({name + "n": "1"})
    assert long_name.value.field == f"headers.{name}"
    with pytest.raises(InvalidRequest) as long_value:
        check_headers({"X-A": value + "v"})
    assert long_value.value.field == "headers.X-A"


def test_values_are_shown_masked() -> None:
    assert mask_headers({"Authorization": "Bearer secret", "X-Empty": ""}) == {
        "Authorization": MASK,
        "X-Empty": MASK,
    }
