"""Named ports of a guest, and programs at their other ends."""

import hashlib
import socket
import threading
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, guest_options
from tests.boot.shell import PATIENCE
from tests.receiving import receive_exactly

pytestmark = pytest.mark.boot

MIB = 1 << 20
#: Prints the device file of a port.
FIND = (
    "port() { for p in /sys/class/virtio-ports/*; do read -r n <$p/name;"
    ' [ "$n" = "$1" ] && echo /dev/${p##*/}; done; }'
)


@pytest.mark.parametrize("kind", [(), ("--realm",)], ids=["normal", "realm"])
def test_ports_carry_megabytes_both_ways(
    debian: Image, tmp_path: Path, seed: int, kind: tuple[str, ...]
) -> None:
    """At the same time through two ports, each with its own bytes."""
    content = hashlib.shake_128(str(seed).encode()).digest(MIB)
    digest = hashlib.sha256(content).hexdigest()
    paths = {name: tmp_path / name for name in ("in", "out")}
    ports = [word for name, path in paths.items() for word in ("--port", f"org.{name}={path}")]
    with Running("run", *kind, *ports, *guest_options(debian, None)) as guest:
        shell = guest.shell
        shell.log_in()
        assert shell.run(FIND).status == 0
        for path in paths.values():
            assert path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
            for connection, name in ((one, "in"), (other, "out")):
                connection.settimeout(PATIENCE)
                connection.connect(str(paths[name]))
            sender = threading.Thread(target=one.sendall, args=(content,))
            sender.start()
            copy = f"busybox head -c {MIB} <$(port org.in) >/data; busybox sha256sum /data"
            assert shell.run(copy).output.split()[0] == digest
            sender.join()
            shell.type("busybox cat /data >$(port org.out)\n")
            assert receive_exactly(other, MIB) == content
        shell.type("poweroff -f\n")
        assert guest.wait() == ExitCode.OK
    assert not any(path.exists() for path in paths.values())
