"""pyvmm metrics: the activity of all instances for Prometheus."""

import signal
import socket
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyvmm.vm.exit_code import ExitCode
from tests.boot.shell import PATIENCE
from tests.cli.inside import verb
from tests.cli.instance import DONE, REALM, VM, create, result, running
from tests.cli.kernels import CHATTER, IDLE, kernel
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("runtime")
Samples = dict[frozenset[str], float]


def samples(text: str) -> Samples:
    """Return the value of each sample, by its name with the values of its labels."""
    return {
        frozenset({sample.name, *sample.labels.values()}): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_instance_has_samples(tmp_path: Path) -> None:
    """Whether it runs, what it has executed and what it uses; one that is shut off has few."""
    create("r1", *REALM, "-m", "64M")
    create("v1", *VM, "-k", kernel(tmp_path, CHATTER))
    create("v2", *VM, "-k", kernel(tmp_path, IDLE))
    assert result(verb("start", "v1")) == result(verb("stop", "v2", "--force")) == DONE
    wait_until(lambda: read()[frozenset({"pyvmm_instructions_total", "0", "v1"})] > 0)
    found = read()
    for name, kind, state, up in (
        ("r1", "realm", "new", 1),
        ("v1", "vm", "running", 1),
        ("v2", "vm", "shut off", 0),
    ):
        assert found[frozenset({"pyvmm_instance_info", name, kind, state})] == 1
        assert found[frozenset({"pyvmm_up", name})] == up
        assert (frozenset({"pyvmm_uptime_seconds", name}) in found) == (state == "running")
    assert found[frozenset({"pyvmm_ram_bytes", "r1"})] == 64 << 20
    assert found[frozenset({"pyvmm_instructions_total", "0", "r1"})] == 0
    granules = [found[frozenset({"pyvmm_granules", name, "realm"})] for name in ("r1", "v1")]
    assert granules[0] > granules[1]


def read() -> Samples:
    """Return what `pyvmm metrics` prints."""
    return samples(verb("metrics").output)


def test_a_server_reads_at_each_scrape() -> None:
    """It ends by a signal."""
    with running("metrics", "--port", "0") as server:
        assert server.stdout is not None
        url = server.stdout.readline().decode().strip()
        assert scrape(url) == {}
        create("r1", *REALM)
        assert scrape(url)[frozenset({"pyvmm_up", "r1"})] == 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0


def scrape(url: str) -> Samples:
    """Return what the server answers."""
    address = urlsplit(url)
    connection = HTTPConnection(address.netloc, timeout=PATIENCE)
    connection.request("GET", address.path)
    return samples(connection.getresponse().read().decode())


def test_an_address_in_use_is_one_line() -> None:
    """And a usage error."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = verb("metrics", "--port", str(port))
    line = (
        f"pyvmm: --host 127.0.0.1 --port {port}: Address already in use: choose another address\n"
    )
    assert (ended.code, ended.errors) == (ExitCode.BAD_INPUT, line)
