"""Debian with systemd and tools: built by a guest, and booted in a VM and in a realm."""

import hashlib
import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import platformdirs
import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, build_image, guest_options

pytestmark = [pytest.mark.boot, pytest.mark.slow]

BUILD_PATIENCE = 7200.0
BOOT_PATIENCE = 1200.0
PACKAGE = "hostname"
PROMPT = re.compile(rb"root@debian:~# ")
HELLO = "'int puts(const char *); int main(void) { puts(\"compiled\"); }'"
#: A command in the guest, and what it shows.
WORK = (
    (f"echo {HELLO} | gcc -g -x c -o /tmp/hello - && /tmp/hello", "compiled"),
    ("python3 -c 'print(sum(range(10)))'", "45"),
    ("strace -e trace=write /tmp/hello 2>&1", 'write(1, "compiled'),
    ("gdb -q -batch -ex 'break main' -ex run -ex bt /tmp/hello", "#0  main"),
    ("perf stat -e instructions:u /tmp/hello 2>&1", "instructions"),
)


@pytest.fixture(scope="module")
def full() -> Image:
    """Build the image, unless it exists."""
    return build_image("debian-full", "--profile", "full", patience=BUILD_PATIENCE)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Serve one package, from the cache of the build, on the host's loopback interface."""
    directory = tmp_path_factory.mktemp("mirror")
    archives = platformdirs.user_cache_path("pyvmm") / "apt-arm64/cache/archives"
    deb = next(archives.glob(f"{PACKAGE}_*.deb"))
    shutil.copy(deb, directory / "package.deb")
    fields = subprocess.run(["dpkg-deb", "-f", deb], check=True, capture_output=True, text=True)
    place = f"Filename: ./package.deb\nSize: {deb.stat().st_size}\n"
    place += f"SHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\n"
    (directory / "Packages").write_text(fields.stdout + place)
    handler = partial(_Quiet, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("kind", [(), ("--realm", "--no-hes")], ids=["normal", "realm"])
def test_full_debian_works(full: Image, mirror: int, kind: tuple[str, ...]) -> None:
    """It reaches multi-user without a failed unit; apt, the compiler and the tools work."""
    disk = Path(f"{full.rootfs},snapshot")
    options = (*guest_options(full, disk), "-m", "1G", "-n", "mode=user", "--pmu")
    with Running("run", *kind, *options) as guest:
        guest.shell.expect(PROMPT, BOOT_PATIENCE)
        quiet = "bind 'set enable-bracketed-paste off'; stty -echo; PS1=; PS2=; dmesg -n 1"
        guest.shell.run(quiet, BOOT_PATIENCE)
        state = guest.shell.run("systemctl is-system-running --wait | cat", BOOT_PATIENCE)
        failed = guest.shell.run("systemctl --failed --no-legend --plain | cat", BOOT_PATIENCE)
        assert (state.output, failed.output) == ("running", "")
        assert guest.shell.run("systemctl is-active multi-user.target").output == "active"
        for command, shown in WORK:
            assert shown in guest.shell.run(command, BOOT_PATIENCE).output
        source = f"deb [trusted=yes] http://192.168.33.1:{mirror} ./"
        install = (
            f"echo '{source}' >/etc/apt/sources.list.d/test.list"
            " && rm /etc/apt/sources.list.d/debian.sources && apt-get update -q"
            f" && apt-get install -q -y --reinstall {PACKAGE}"
        )
        answer = guest.shell.run(install, BOOT_PATIENCE)
        assert answer.status == 0, answer.output
