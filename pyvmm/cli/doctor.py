"""pyvmm doctor: check this machine's requirements."""

import ctypes.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click
import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import print_json
from pyvmm.cli.common.say import print_lines
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode

_SBIN: Final = "/usr/sbin:/sbin"  # not on every user's PATH
_GIB: Final = 1 << 30
_MEMINFO: Final = "/proc/meminfo"
_HELP = """Check this machine's requirements: show what is missing, and how to get it.

An optional requirement is needed only for the purpose shown with it.

Exit code: 0 all that every guest needs is present, 2 something is missing.
"""


class Verdict(StrEnum):
    """The result of a check."""

    OK = "ok"
    OPTIONAL = "optional"  # missing, but not every guest needs it
    MISSING = "missing"


class Finding(msgspec.Struct, frozen=True):
    """One requirement and the result of its check."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


@click.command(help=_HELP)
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def doctor(*, wants_json: bool) -> int:
    """Check all requirements, and print the findings."""
    findings = [check() for check in CHECKS]
    if wants_json:
        print_json(findings)
    else:
        print_lines(*_lines(findings))
    is_missing = any(each.verdict == Verdict.MISSING for each in findings)
    return ExitCode.BAD_INPUT if is_missing else ExitCode.OK


def _lines(findings: list[Finding]) -> Iterator[str]:
    width = max(len(each.what) for each in findings)
    for each in findings:
        yield f"{each.verdict:<8}  {each.what:<{width}}  {each.found}"
        if each.advice:
            yield f"{'':<8}  {'':<{width}}  -> {each.advice}"


# --- checks -----------------------------------------------------------------------------------


def _check_python() -> Finding:
    return Finding(
        "Python", Verdict.OK, f"{sys.version.split()[0]}, pyvmm {version('pyvmm')}"
    )  # an older one could not load this file


def _check_compiler() -> Finding:
    name = os.environ.get("CC", "cc")
    if shutil.which(name):
        return Finding("C compiler", Verdict.OK, _first_line(name, "--version"))
    advice = "install gcc and libc6-dev (Debian), or set CC; only building the core needs it"
    return Finding("C compiler", Verdict.OPTIONAL, f"no {name} on PATH", advice)


def _check_core() -> Finding:
    try:
        from pyvmm.platform import Platform  # noqa: PLC0415  this is the check

        Platform(_GIB, 1)
    except ImportError as error:
        return Finding("C core", Verdict.MISSING, str(error), "run make setup")
    except UserError as error:
        return Finding("C core", Verdict.MISSING, str(error), "free some memory")
    return Finding("C core", Verdict.OK, "built; it can create a machine")


def _check_memory() -> Finding:
    available = _available_memory()
    found = f"{available / _GIB:.1f} GiB available; guests use memfd, not /dev/shm"
    if available < _GIB // 2:
        return Finding("memory", Verdict.OPTIONAL, found, "give guests less memory with -m")
    return Finding("memory", Verdict.OK, found)


def _available_memory() -> int:
    """Return the bytes available without swapping: free memory and caches that can be dropped."""
    lines = Path(_MEMINFO).read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes) << 10


def _check_sandbox() -> Finding:
    from pyvmm.arch.confine.sandbox import is_effective, parts  # noqa: PLC0415  loads ctypes

    present, lacking = parts()
    found = ", ".join(present)
    if lacking:
        advice = "install libseccomp2, use a kernel with Landlock; guests are confined in part now"
        return Finding("sandbox", Verdict.OPTIONAL, f"{found}; {', '.join(lacking)}", advice)
    if not is_effective():
        advice = "allow seccomp and Landlock here; guests are confined in part now"
        return Finding("sandbox", Verdict.OPTIONAL, f"this host refuses a part of {found}", advice)
    return Finding("sandbox", Verdict.OK, found)


def _check_apt() -> Finding:
    advice = "install apt; only pyvmm image build debian needs it"
    return _check_tools("apt", ("apt-get", "apt-config"), advice)


def _check_network() -> Finding:
    found = [name for name in ("passt",) if shutil.which(name)]
    found += [f"lib{name}" for name in ("slirp",) if ctypes.util.find_library(name)]
    if found:
        return Finding("user network", Verdict.OK, ", ".join(found))
    advice = "install passt; only -n mode=user needs it"
    return Finding("user network", Verdict.OPTIONAL, "neither passt nor libslirp", advice)


def _check_tap() -> Finding:
    if os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return Finding("tap network", Verdict.OK, "/dev/net/tun can be opened")
    advice = "ask root for a tap interface; only -n mode=tap needs it"
    return Finding("tap network", Verdict.OPTIONAL, "/dev/net/tun cannot be opened", advice)


def _check_e2fsprogs() -> Finding:
    advice = "install e2fsprogs; only pyvmm image needs it"
    return _check_tools("e2fsprogs", ("mke2fs", "debugfs"), advice)


def _check_qemu() -> Finding:
    advice = "install qemu-utils; only qcow2 disks need it"
    return _check_tools("qemu-utils", ("qemu-img", "qemu-nbd"), advice)


def _check_containers() -> Finding:
    advice = "install skopeo and umoci; only container images (--oci, --from-oci) need them"
    return _check_tools("container tools", ("skopeo", "umoci"), advice)


def _check_runtime() -> Finding:
    try:
        directory = Directory.of_user()
        with directory.locked():
            pass
    except UserError as error:
        return Finding("runtime directory", Verdict.MISSING, str(error))
    except OSError as error:
        advice = "set XDG_RUNTIME_DIR to a writable directory"
        return Finding("runtime directory", Verdict.MISSING, str(error), advice)
    return Finding("runtime directory", Verdict.OK, str(directory.path))


def _check_hes() -> Finding:
    from pyvmm.root_of_trust import hes_directory  # noqa: PLC0415  imports cryptography

    path = hes_directory()
    place = next(each for each in (path, *path.parents) if each.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        advice = "set PYVMM_HES_DIR to a writable directory; only realms with tokens need it"
        return Finding("root of trust", Verdict.OPTIONAL, f"{place} is not writable", advice)
    state = "has an identity" if (path / "otp").exists() else "the first realm creates an identity"
    return Finding("root of trust", Verdict.OK, f"{path}: {state}")


CHECKS: Final[tuple[Callable[[], Finding], ...]] = (
    _check_python,
    _check_core,
    _check_compiler,
    _check_memory,
    _check_runtime,
    _check_hes,
    _check_sandbox,
    _check_network,
    _check_tap,
    _check_apt,
    _check_e2fsprogs,
    _check_qemu,
    _check_containers,
)


def _check_tools(what: str, tools: tuple[str, ...], advice: str) -> Finding:
    missing = [each for each in tools if not _which(each)]
    if missing:
        return Finding(what, Verdict.OPTIONAL, f"no {', no '.join(missing)}", advice)
    return Finding(what, Verdict.OK, str(Path(_which(tools[0]) or "").parent))


def _which(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path=_SBIN)


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    return (done.stdout or done.stderr).partition("\n")[0]
