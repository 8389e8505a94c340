"""A caller's URL is judged by where it leads, and opened there and nowhere else."""

from __future__ import annotations

import datetime
import ssl
import threading
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cluster import urls as module
from cluster.addresses import may_reach
from cluster.errors import UnsafeUrl, UrlProblem, UrlUnreachable
from cluster.settings import Settings
from cluster.urls import MAX_ANSWER_BYTES, UrlGuard, is_web_url
from tests.web_server import WebServer, web_server

LOOPBACK = [ip_network("127.0.0.1/32")]
PUBLIC = "93.184.216.34"


class Names:
    """A resolver with answers of its own: each look-up of a name takes the next one, the last for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = {name.replace("_", "."): list(found) for name, found in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, *, type: int) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        answers = self._answers[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(None, type, 6, "", (address, port)) for address in found]


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


PUBLIC_ADDRESSES = [
    PUBLIC,
    "8.8.8.8",
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:800::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]
OTHER_ADDRESSES = {
    "loopback": "127.0.0.1",
    "loopback elsewhere": "127.255.255.254",
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 172": "172.16.0.1",
    "private 172 end": "172.31.255.255",
    "private 192": "192.168.1.1",
    "carrier NAT": "100.64.0.1",
    "carrier NAT metadata": "100.100.100.200",
    "link-local metadata": "169.254.169.254",
    "Azure's host agent": "168.63.129.16",
    "Oracle's metadata": "192.0.0.192",
    "protocol assignments": "192.0.0.1",
    "documentation": "192.0.2.1",
    "benchmarking": "198.18.0.1",
    "multicast": "224.0.0.1",
    "global multicast": "233.252.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 loopback": "::1",
    "v6 unspecified": "::",
    "v6 link-local": "fe80::1",
    "v6 link-local with a zone": "fe80::1%lo",
    "v6 site-local": "fec0::1",
    "v6 unique local": "fd00:ec2::254",
    "v6 multicast": "ff02::1",
    "v6 global multicast": "ff0e::1",
    "v6 documentation": "2001:db8::1",
    "v6 discard": "100::1",
    "v6 unassigned": "4000::1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped private": "::ffff:10.0.0.1",
    "mapped metadata": "::ffff:169.254.169.254",
    "compatible loopback": "::127.0.0.1",
    "compatible public": "::8.8.8.8",
    "NAT64 loopback": "64:ff9b::7f00:1",
    "NAT64 private": "64:ff9b::a00:1",
    "NAT64 metadata": "64:ff9b::a9fe:a9fe",
    "local NAT64": "64:ff9b:1::808:808",
    "6to4 loopback": "2002:7f00:1::",
    "6to4 private": "2002:c0a8:101::1",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "Teredo to a private client": "2001:0:808:808::f5ff:fffe",
}


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_public_addresses_may_be_reached(address: str) -> None:
    assert may_reach(ip_address(address), ())


@pytest.mark.parametrize("address", OTHER_ADDRESSES.values(), ids=OTHER_ADDRESSES.keys())
def test_no_other_address_may_be_reached(address: str) -> None:
    assert not may_reach(ip_address(address), ())


@pytest.mark.parametrize(
    ("address", "network", "expected"),
    [
        ("127.0.0.1", "127.0.0.0/8", True),
        ("::ffff:127.0.0.1", "127.0.0.0/8", True),
        ("64:ff9b::a00:1", "10.0.0.0/8", True),
        ("10.0.0.1", "127.0.0.0/8", False),
        ("::1", "127.0.0.0/8", False),
        ("fd00::5", "fd00::/8", True),
        ("2002:7f00:1::", "2002::/16", False),
        ("2001:0:808:808::f5ff:fffe", "2001::/32", False),
        ("2001:0:808:808::f7f7:f7f7", "2001::/32", True),
    ],
)
def test_an_operator_allows_networks(address: str, network: str, expected: bool) -> None:
    assert may_reach(ip_address(address), [ip_network(network)]) is expected


@pytest.mark.parametrize(
    "url",
    [
        "", "nonsense", "ftp://a/b", "file:///etc/passwd", "gopher://x/", "javascript:1", "//a/b", "http:", "http://",
        "http:///path", "http://:80/", "http://[1", "http://[::1", "http://a b/", " http://a/", "http://a\n/",
        "http://a/\r\nX: 1", "http://a/\x00", "http://a:0/", "http://a:65536/", "http://a:x/", "http://user@a/",
        "http://user:password@a/", "http://@a@b/", "http://a\\@b/", "http://a%2eb/", "http://127%2e0.0.1/",
        "http://①②⑦.0.0.1/", "http://[fe80::1%25lo]/", "http://\ud800/", "http://0177.0.0.1/",
        "http://a/" + "x" * 70_000,
    ],
    ids=lambda url: ascii(url[:24]),
)  # fmt: skip
def test_a_malformed_url_is_refused_by_its_form(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        UrlGuard().check_form(url)


@pytest.mark.parametrize("value", [None, 3, ["http://a/"]], ids=repr)
def test_what_is_no_text_is_no_url(value: Any) -> None:
    with pytest.raises(UnsafeUrl):
        UrlGuard().check_form(value)


@pytest.mark.parametrize(
    "url",
    ["http://a", "HTTPS://A.example:8443/x?y=1#z", "http://8.8.8.8/", "http://[2606:4700::1]:80/", "http://bücher.example/"],
    ids=ascii,
)  # fmt: skip
def test_a_plain_url_has_a_good_form(url: str) -> None:
    assert UrlGuard().check_form(url).scheme in {"http", "https"}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "LOCALHOST", "2130706433", "0x7f000001", "017700000001", "0x7f.1", "127.1",
        "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::127.0.0.1]",
        "169.254.169.254", "2852039166", "0xa9fea9fe", "[fd00:ec2::254]",
    ],
)  # fmt: skip
async def test_a_host_is_what_the_system_makes_of_it(host: str) -> None:
    """With the real resolver, which needs no network for these."""
    with pytest.raises(UnsafeUrl, match="not a public address"):
        await UrlGuard().judge(f"http://{host}/")


async def test_every_address_of_a_name_must_be_good() -> None:
    names = Names(good_example=[[PUBLIC, "2606:4700::1"]], trap_example=[[PUBLIC, "10.0.0.1"]])
    await UrlGuard(resolver=names).judge("https://good.example/x")
    with pytest.raises(UnsafeUrl):
        await UrlGuard(resolver=names).judge("https://trap.example/x")


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("label too long")], ids=repr)
async def test_a_name_without_an_address_is_unreachable(error: Exception) -> None:
    def resolver(*args: Any, **options: Any) -> Any:
        raise error

    with pytest.raises(UrlUnreachable, match=r"lost\.example is not a public address, or does not resolve"):
        await UrlGuard(resolver=resolver).judge("http://lost.example/")
    with pytest.raises(UrlUnreachable, match="or does not resolve"):
        await UrlGuard(resolver=lambda *_, **__: []).judge("http://lost.example/")


async def test_a_resolver_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()
    monkeypatch.setattr(module, "_RESOLVE_S", 0.1)
    try:
        with pytest.raises(UrlUnreachable, match="did not answer in time"):
            await UrlGuard(resolver=lambda *_, **__: is_over.wait()).judge("http://hanging.example/")
    finally:
        is_over.set()


async def test_slow_names_of_one_guard_stall_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RESOLVE_S", 5.0)
    is_over, taken = threading.Event(), threading.Semaphore(0)

    def tarpit(*_: Any, **__: Any) -> Any:
        taken.release()
        is_over.wait()
        return []

    slow, other = UrlGuard(resolver=tarpit), UrlGuard(resolver=Names(good_example=[[PUBLIC]]))
    async with anyio.create_task_group() as callers:
        try:
            for number in range(module._MAX_RESOLVERS):
                callers.start_soon(_judged, slow, f"http://tarpit{number}.example/")
            for _ in range(module._MAX_RESOLVERS):
                await anyio.to_thread.run_sync(taken.acquire)
            await other.judge("http://good.example/")
        finally:
            is_over.set()


async def _judged(guard: UrlGuard, url: str) -> None:
    with pytest.raises(UrlUnreachable):
        await guard.judge(url)


async def test_a_caller_cannot_tell_an_internal_name_from_none() -> None:
    def resolver(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if host == "internal.example":
            return [(None, None, 6, "", ("10.0.0.1", port))]
        raise OSError("no such name")

    texts = set()
    for name in ("internal", "none"):
        with pytest.raises(UrlProblem) as caught:
            await UrlGuard(resolver=resolver).judge(f"http://{name}.example/")
        texts.add(str(caught.value).replace(name, "NAME"))
    (text,) = texts
    assert "MEDIARAY_CALLBACK_ALLOW_CIDRS" in text


async def test_a_post_goes_to_the_judged_address_under_its_name(server: WebServer) -> None:
    server.serve("/hook", 201, b"thanks", X_Of_Server="1")
    names = Names(hook_example=[["127.0.0.1"]])
    answer = await UrlGuard(LOOPBACK, names).post(
        server.url("/hook?a=1", "hook.example"), b"{}", {"Content-Type": "application/json"}, 10
    )
    assert (answer.status, answer.headers["x-of-server"], answer.body) == (201, "1", b"thanks")
    (request,) = server.seen
    assert (request.path, request.body) == ("/hook?a=1", b"{}")
    assert request.headers["Host"] == f"hook.example:{server.port}"
    assert request.headers["Content-Type"] == "application/json"
    assert names.asked == ["hook.example"]  # the address that was judged is the one that is connected to


async def test_an_answer_that_changes_after_the_check_wins_nothing(server: WebServer) -> None:
    server.serve("/hook")
    names = Names(rebound_example=[[PUBLIC], ["127.0.0.1"]])
    guard = UrlGuard(resolver=names)
    url = server.url("/hook", "rebound.example")
    await guard.judge(url)
    with pytest.raises(UnsafeUrl):
        await guard.post(url, b"", {}, 10)
    assert not server.seen


async def test_the_next_address_is_tried_where_one_refuses(server: WebServer) -> None:
    server.serve("/hook", 204)
    names = Names(two_example=[["127.0.0.9", "127.0.0.1"]])
    guard = UrlGuard([ip_network("127.0.0.0/8")], names)
    assert (await guard.post(server.url("/hook", "two.example"), b"", {}, 10)).status == 204


async def test_a_post_follows_no_redirect_and_no_proxy(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.serve("/hook", 302, Location=server.url("/other"))
    assert (await UrlGuard(LOOPBACK).post(server.url("/hook"), b"", {}, 10)).status == 302
    assert [request.path for request in server.seen] == ["/hook"]


async def test_a_long_answer_is_cut(server: WebServer) -> None:
    server.serve("/hook", 500, b"x" * 100_000)
    answer = await UrlGuard(LOOPBACK).post(server.url("/hook"), b"", {}, 10)
    assert answer.body == b"x" * MAX_ANSWER_BYTES


async def test_a_body_that_stalls_does_not_cost_the_answer(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stall(request: Any) -> None:
        request.head(200, Content_Length="100")
        request.wfile.write(b"half")
        request.wait_for_the_end()

    monkeypatch.setattr(module, "_ANSWER_S", 2.2)  # past the 2 s, which bind only until the status is known
    server.answers["/hook"] = stall
    answer = await UrlGuard(LOOPBACK).post(server.url("/hook"), b"", {}, 2)
    assert (answer.status, answer.body) == (200, b"half")


async def test_a_server_that_never_answers_is_unreachable(server: WebServer) -> None:
    server.answers["/hook"] = lambda request: request.wait_for_the_end()
    with pytest.raises(UrlUnreachable, match="did not answer in time"):
        await UrlGuard(LOOPBACK).post(server.url("/hook?token=secret"), b"", {}, 0.2)


async def test_trouble_names_the_host_and_no_secret(server: WebServer) -> None:
    server.answers["/hook"] = lambda request: request.wfile.write(b"no HTTP\r\n\r\n")
    for url in (server.url("/hook?token=secret"), "http://127.0.0.1:9/secret"):
        with pytest.raises(UrlUnreachable, match=r"127\.0\.0\.1 cannot be reached") as caught:
            await UrlGuard(LOOPBACK).post(url, b"", {}, 10)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("host", "is_named"), [("tls.example", True), ("other.example", False)])
async def test_tls_verifies_the_name_and_not_the_address(tmp_path: Path, host: str, is_named: bool) -> None:
    certificate = _certificate(tmp_path, "tls.example")
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate)
    guard = UrlGuard(
        LOOPBACK,
        Names(tls_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]]),
        ssl.create_default_context(cafile=str(certificate)),
    )
    with web_server(ours) as server:
        server.serve("/hook", 200)
        url = server.url("/hook", host, "https")
        if is_named:
            assert (await guard.post(url, b"", {}, 10)).status == 200
        else:
            with pytest.raises(UrlUnreachable, match="certificate"):
                await guard.post(url, b"", {}, 10)


def test_settings_name_the_allowed_networks() -> None:
    networks = Settings(callback_allow_cidrs=" 10.1.0.0/16, fd00::/8,").callback_networks
    assert networks == (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    assert Settings().callback_networks == ()
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        Settings(callback_allow_cidrs="10.0.0.1/8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("http://x", True), ("HTTPS://x", True), ("http:", False), ("s3://b/k", False), ("a/http://b", False)],
)
def test_what_means_to_be_a_web_url(text: str, expected: bool) -> None:
    assert is_web_url(text) is expected


def _certificate(folder: Path, host: str) -> Path:
    """A certificate that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    pem, pkcs8, bare = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(key.private_bytes(pem, pkcs8, bare) + certificate.public_bytes(pem))
    return path
