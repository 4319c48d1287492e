"""The server: who reaches it, what it serves, and what it makes of strange browsers."""

import http.client
import re
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPMessage

import pytest
from websockets import Origin
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from pyvmm.token.generations import Generation
from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import pyvmm
from tests.cli.instance import REALM, VM, running
from tests.explore.conftest import Address, browsing, existing, serving
from tests.token.draft import Draft


@dataclass(frozen=True, slots=True)
class Page:
    """A response."""

    status: int
    headers: HTTPMessage
    body: bytes


def get(
    address: Address,
    path: str | None = None,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
) -> Page:
    """Return the response to a request."""
    connection = http.client.HTTPConnection(address.host, timeout=30)
    with closing(connection):
        connection.request(method, address.path if path is None else path, headers=headers or {})
        response = connection.getresponse()
        return Page(response.status, response.headers, response.read())


def refusal(address: Address, path: str, origin: str | None) -> int:
    """Return the status with which a WebSocket is refused."""
    url = f"ws://{address.host}{path}"
    with pytest.raises(InvalidStatus) as raised, connect(url, origin=Origin(origin or "") or None):
        pass
    return raised.value.response.status_code


def test_the_page_may_load_and_reach_nothing_else(page: Address) -> None:
    """A strict policy, no caches, no other site; the files are there."""
    response = get(page)
    policy = response.headers["Content-Security-Policy"]
    assert response.status == 200
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert not any(name.lower().startswith("access-control") for name in response.headers)
    text = response.body.decode()
    files = re.findall(r'(?:src|href)="(\w[\w.]*)"', text)
    assert len(files) == 2
    for name in files:
        assert get(page, page.path + name).status == 200
    assert "http:" not in text


@pytest.mark.parametrize(
    "path", ["nothing", "../explorer.py", "%2e%2e/explorer.py", "page/x", "live"]
)
def test_only_the_page_is_served(page: Address, path: str) -> None:
    """No other file, however the path is written."""
    assert get(page, page.path + path).status in {403, 404}


@pytest.mark.parametrize("path", ["", "/", "/explorer.js", "/live", "/x/", "/%00/", "//"])
def test_the_token_is_required(page: Address, path: str) -> None:
    """Also for the script, which is no secret."""
    response = get(page, path)
    assert response.status == 403
    assert response.body == b"refused: open the address that pyvmm explore has printed\n"


def test_a_token_that_is_almost_right(page: Address) -> None:
    """One character, or the end, is another one."""
    for path in (
        page.path[:-2] + "/",
        page.path[:-1] + "x/",
        page.path[:-2] + "!/",
        page.path[:-1],
    ):
        assert get(page, path).status == 403, path


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", "localhost:1", "127.0.0.1.nip.io"])
def test_only_our_host(page: Address, host: str) -> None:
    """A name that somebody else's DNS resolves to loopback is refused."""
    assert get(page, headers={"Host": host}).status == 403


def test_localhost_is_our_host(page: Address) -> None:
    """It is what users type."""
    assert get(page, headers={"Host": page.host.replace("127.0.0.1", "localhost")}).status == 200


@pytest.mark.parametrize("origin", ["http://example.org", "null", "https://127.0.0.1"])
def test_only_our_origin(page: Address, origin: str) -> None:
    """Another site's page gets nothing, and no WebSocket."""
    assert get(page, headers={"Origin": origin}).status == 403
    assert refusal(page, f"{page.path}live", origin) == 403


def test_a_web_socket_needs_token_and_origin(page: Address) -> None:
    """Without one of them there is none."""
    for path, origin in (("/live", page.origin), (f"{page.path}live", None)):
        assert refusal(page, path, origin) == 403


def test_only_reading(page: Address) -> None:
    """Other methods are refused."""
    for method in ("POST", "PUT", "OPTIONS", "DELETE"):
        assert get(page, method=method).status in {403, 405}


def test_it_listens_on_loopback(page: Address) -> None:
    """Not on the machine's other addresses."""
    assert page.host.startswith("127.0.0.1:")
    port = int(page.host.partition(":")[2])
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), 5):  # noqa: PT011
        pass


@pytest.mark.parametrize(
    "garbage",
    [
        "", "{", "[]", "null", '"x"', "[" * 10_000, '{"type":"watch"}', '{"type":"x","name":"y"}',
        '{"type":"watch","name":"watched","more":1}', '{"type":"ask","id":1e300,"method":"status"}',
        b"\x00\xff", "x" * 20_000,
    ],
)  # fmt: skip
def test_a_browser_that_sends_garbage_is_disconnected(page: Address, garbage: str | bytes) -> None:
    """It gets a reason; others go on."""
    with browsing(page) as other, browsing(page) as browser:
        browser.socket.send(garbage)
        with pytest.raises(ConnectionClosed):
            browser.receive("nothing")
        other.send(type="watch", name="watched")
        assert other.receive("hello")["name"] == "watched"


@pytest.mark.parametrize(
    ("method", "params", "line"),
    [
        ("destroy", {}, "'destroy' is not a question for an instance"),
        ("__class__", {}, "'__class__' is not a question for an instance"),
        ("observe_granule", {}, "observe_granule: Object missing required field `pa`"),
        ("observe_granule", {"pa": "main"}, "observe_granule: Expected `int`, got `str`"),
        ("observe_granule", {"pa": "0xzz"}, "observe_granule: invalid literal"),
        (
            "observe_granule",
            {"pa": "0x" + "f" * 4000},
            "observe_granule: a number has at most 64 bits",
        ),
        ("observe_granule", {"pa": 0}, "0x0 is not in DRAM"),
        ("observe_granule", {"pa": 1 << 64}, "observe_granule: a number has at most 64 bits"),
        ("observe_walk", {"address": "-0x1"}, "observe_walk: Expected `int`, got `str`"),
        ("observe_walk", {"address": 0, "pe": -1}, "PE -1 does not exist"),
        ("observe_walk", {"address": 0, "pe": 10**18}, "PE 1000000000000000000 does not exist"),
        ("observe_walk", {"address": 0, "more": 0}, "observe_walk: Object contains unknown field"),
        ("debug", {}, "a realm hides its registers"),
    ],
)
def test_a_wrong_question_gets_an_error(
    page: Address, method: str, params: dict[str, object], line: str
) -> None:
    """One line; the next question is answered."""
    with browsing(page) as browser:
        browser.send(type="watch", name="watched")
        assert line in str(browser.ask(method, **params)["error"])
        assert browser.ask("status")["result"]


def test_a_token_is_explained(page: Address) -> None:
    """One of another platform, and what is none; a realm that is not started gives none."""
    with browsing(page) as browser:
        browser.send(type="watch", name="watched")
        for text, check in (
            (Draft.good(Generation.G1).encode().hex(), "trust anchor"),
            ("00", "encoding"),
        ):
            picture = browser.ask("token", text=text)["result"]
            assert isinstance(picture, dict)
            assert picture["is_verified"] is False
            checks = {each["name"]: each for each in picture["checks"]}
            assert checks[check]["outcome"] == "failed"
            assert checks[check]["findings"]
            claims = {each["name"]: each for each in picture["claims"]}
            assert bool(claims) == (check != "encoding")
            for claim in claims.values():
                assert claim["value"]
                assert claim["meaning"]
        assert "start it first" in str(browser.ask("token")["error"])


def test_a_question_without_an_instance(page: Address) -> None:
    """It has to be chosen before."""
    with browsing(page) as browser:
        assert browser.ask("status")["error"] == "choose an instance first"


def test_an_instance_that_may_not_be_watched() -> None:
    """The page shows why; a name that does not exist, too."""
    with existing("closed", *VM), serving() as address, browsing(address) as browser:
        names = [each["name"] for each in browser.receive("instances")["instances"]]  # type: ignore[attr-defined]
        assert "closed" in names
        for name, problem in (
            ("closed", "closed cannot be observed: create it with --observe"),
            ("nobody", "no instance nobody: pyvmm list shows all instances"),
            ("no/body", "name 'no/body'"),
        ):
            browser.send(type="watch", name=name)
            while not (message := browser.receive("status"))["problem"]:
                pass
            assert problem in str(message["problem"])


def test_an_instance_that_ends_while_it_is_watched() -> None:
    """All its events arrive, up to the last one; the page says that it has ended."""
    with existing("short", *REALM, "--observe"), serving("short") as address:
        with browsing(address) as browser:
            browser.send(type="watch", name="short")
            browser.receive("map")
            assert pyvmm("start", "short").code == ExitCode.OK
            text = ""
            while "RMI_REALM_DESTROY" not in text:
                text = str(browser.receive("events")["lines"])
            assert pyvmm("destroy", "short", "--timeout", "0").code == ExitCode.OK
            while browser.state != "shut off":
                browser.receive()
        with browsing(address) as late:  # the record is still there
            late.send(type="watch", name="short")
            assert late.receive("hello")["first"] == 0
            assert "RMI_REALM_CREATE" in str(late.receive("events")["lines"])
            assert late.ask("observe_gpt")["error"]


def test_mistakes() -> None:
    """One line, exit code 2."""
    ended = pyvmm("explore", "nobody")
    assert ended.errors == "pyvmm: no instance nobody: pyvmm list shows all instances\n"
    assert ended.code == ExitCode.BAD_INPUT
    with serving() as address:
        port = address.host.partition(":")[2]
        ended = pyvmm("explore", "--port", port)
        line = f"pyvmm: --port {port}: Address already in use: choose another port\n"
        assert (ended.code, ended.errors) == (ExitCode.BAD_INPUT, line)


def test_ctrl_c_ends_it() -> None:
    """Without a message, even while a browser watches."""
    with running("explore") as process:
        assert process.stdout is not None
        address = Address(process.stdout.readline().decode().strip())
        with browsing(address) as browser:
            browser.receive("instances")
            process.send_signal(2)
            assert process.wait(30) == ExitCode.OK
        assert process.stderr is not None
        assert process.stderr.read() == b""
