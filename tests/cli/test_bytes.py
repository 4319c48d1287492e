"""Arguments and file names that are not UTF-8: passed on unchanged, or rejected in one line."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from pyvmm.vm import guests
from tests.boot.command import PYVMM, pyvmm
from tests.cli.inside import verb
from tests.cli.instance import left

pytestmark = pytest.mark.usefixtures("runtime")

RAW = b"caf\xe9"
TEXT = os.fsdecode(RAW)

#: What is ours, and of a few characters only; TEXT stands for the bytes.
REFUSED = [
    "run --name TEXT",
    "run -m TEXT",
    "run -c TEXT",
    "run --console TEXT",
    "run --timeout TEXT",
    "run --trace TEXT",
    "run -k TEXT",
    "run -i TEXT",
    "run -d TEXT",
    "run -d x,TEXT",
    "run -d x,serial=TEXT",
    "run --dtb TEXT",
    "run -n TEXT",
    "run -n mode=user,hostfwd=TEXT",
    "run -n mode=user,guest_mac=TEXT",
    "run --realm --metadata TEXT",
    "run --realm --measurement-algo TEXT",
    "run --realm --token-profile TEXT",
    "run --config TEXT",
    "run --TEXT",
    "TEXT",
    "create TEXT",
    "start TEXT",
    "exec TEXT -- true",
    "attest r1 --challenge TEXT",
    "wait r1 --for TEXT",
    "wait r1 --for console:TEXT",
    "debug r1 --sysrq TEXT",
    "stat TEXT",
    "measure TEXT",
    "measure --realm --host TEXT",
    "measure --diff TEXT TEXT",
    "config show -p TEXT",
    "config show -k TEXT --json",
    "image build debian --with TEXT",
    "image build rootfs --from-dir TEXT",
    "verify TEXT",
    "verify TEXT --cpak TEXT",
    "verify TEXT --rim TEXT",
    "verify TEXT --rem TEXT",
    "verify TEXT --reference TEXT",
    "verify TEXT --trust-store TEXT",
    "token show TEXT",
    "token compile TEXT --cpak TEXT --rak TEXT",
    "hes provision TEXT",
    "hes lifecycle TEXT",
    "hes counters TEXT=1",
    "completion TEXT",
]


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_ours_is_refused_in_a_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that pyvmm itself interprets are rejected in one printable line."""
    monkeypatch.chdir(tmp_path)
    ended = verb(*(word.replace("TEXT", TEXT) for word in line.split()))
    assert (ended.code, ended.output, ended.errors.count("\n")) == (2, "", 1), ended.errors
    assert ended.errors.encode()


def test_what_is_the_realm_s_is_measured_as_it_is() -> None:
    """Different bytes give different realms, even if they look alike as text."""
    rims = {
        verb("measure", "--realm", "-m", "64M", "-p", params).output
        for params in (TEXT, "caf\u00e9", "caf\\xe9")
    }
    assert len(rims) == 3
    assert all(len(rim) == 65 for rim in rims)


def test_instance_has_a_kernel_of_any_name(tmp_path: Path, runtime: Path) -> None:
    """And a debugger's socket of any name; its status is readable text."""
    kernel, disk, stub = (tmp_path / f"{name}-{TEXT}" for name in ("kernel", "disk", "stub"))
    kernel.write_bytes(guests.hello())
    disk.write_bytes(bytes(4096))
    ended = pyvmm("create", "r1", "-m", "64M", "-k", kernel, "-d", disk, "--gdb", stub)
    assert (ended.code, ended.output) == (0, "")
    shown = json.loads(verb("list", "--json").output)
    assert shown[0]["kernel"] == f"{tmp_path}/kernel-caf\\xe9"
    assert stub.exists()
    assert verb("destroy", "r1").code == 0
    assert left(runtime) == []
    assert not stub.exists()


@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1:strict"])
def test_name_is_printed_as_it_is(tmp_path: Path, encoding: str) -> None:
    """Byte for byte, like ls, whatever the terminal's encoding is."""
    made = tmp_path / TEXT
    done = subprocess.run(
        [PYVMM, "hes", "provision", "--make", made],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    assert all(line.startswith(bytes(tmp_path) + b"/" + RAW + b"/") for line in done.stdout.split())


def test_name_in_json_is_unicode(tmp_path: Path) -> None:
    """Bytes that JSON cannot contain are escaped."""
    ended = verb("hes", "provision", "--json", "--make", str(tmp_path / TEXT))
    assert all(name.startswith(f"{tmp_path}/caf\\xe9/") for name in json.loads(ended.output))


def test_root_of_trust_may_be_anywhere(tmp_path: Path) -> None:
    """It creates an identity there, and reports where."""
    place = tmp_path / TEXT
    ended = verb("endorse", "--hes-dir", str(place))
    assert ended.code == 0, ended.errors
    assert f"{tmp_path}/caf" in ended.errors
    status = verb("hes", "--hes-dir", str(place), "status", "--json")
    assert json.loads(status.output)["directory"] == f"{tmp_path}/caf\\xe9"


def test_json_with_half_a_character_is_a_mistake(tmp_path: Path) -> None:
    """JSON can escape half a surrogate pair, which is not text."""
    path = tmp_path / "reference"
    path.write_text('{"version": 1, "platform": {"cpak": "\\ud800"}}')
    ended = verb("verify", str(path), "--reference", str(path))
    assert (ended.code, ended.errors.count("\n")) == (2, 1)
    assert "half a surrogate pair is not a character" in ended.errors
