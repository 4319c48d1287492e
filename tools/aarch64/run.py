"""Build for arm64 with a cross compiler; test that in qemu-aarch64, by Debian's Python for arm64.

    python tools/aarch64/run.py test [ARGUMENTS OF PYTEST]     the core's tests
    python tools/aarch64/run.py wheel DIRECTORY                a wheel

Everything is in build/aarch64: a root directory with that Python, the packages that tests import,
and a copy of the project in which the core is built for the tests.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pyvmm.arch.errors import UserError
from pyvmm.vm.images.apt import PrivateApt, find_tool, require_tools

TOP = Path(__file__).parents[2]
HOME = TOP / "build/aarch64"
ROOT, SITE, TREE = HOME / "root", HOME / "site", HOME / "tree"
SUITES = ("stable",)
CROSS = "aarch64-linux-gnu"
COMPILER = f"{CROSS}-gcc"
#: Requirements of the project that the core's tests do not need; it has no wheel for arm64.
NOT_NEEDED = {"pylibfdt"}
TEST_PACKAGES = {"hypothesis", "pytest", "unicorn"}
#: What is not copied: another machine's builds.
NOT_COPIED = shutil.ignore_patterns(
    ".*", "build", "share", "__pycache__", "*.so", "_core.c", "*.egg-info"
)


def say(what: str) -> None:
    """Print what is done now."""
    sys.stdout.write(f"aarch64: {what}\n")
    sys.stdout.flush()


def emulator() -> str:
    """Return the name of qemu-aarch64; UserError if it is missing."""
    name = "qemu-aarch64" if find_tool("qemu-aarch64") else "qemu-aarch64-static"
    require_tools(**{name: "qemu-user"})
    return name


def fetch_root() -> None:
    """Unpack Python for arm64, its headers, and what it needs, once."""
    if ROOT.exists():
        return
    say("fetching Python for arm64")
    apt = PrivateApt(HOME / "apt", "arm64")
    apt.update(SUITES, {}, lambda _: None)
    packages = apt.download_closure(["python3", "libpython3-dev"], lambda _: None)
    partial = HOME / "root.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", package, partial], check=True)
    (partial / "lib").symlink_to("usr/lib")
    partial.rename(ROOT)


def python() -> Path:
    """Return arm64's Python."""
    return (ROOT / "usr/bin/python3").resolve()


def requirements() -> Iterator[str]:
    """Yield the requirements that are needed here, as pyproject.toml has them."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        if line.partition(">")[0] not in NOT_NEEDED:
            yield line
    for line in project["optional-dependencies"]["test"]:
        if line.partition(">")[0] in TEST_PACKAGES:
            yield line


def fetch_packages() -> None:
    """Install wheels for arm64, once."""
    if SITE.exists():
        return
    say("fetching packages")
    version = python().name.removeprefix("python")
    partial = HOME / "site.partial"
    shutil.rmtree(partial, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 28)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "install"),
            *("--only-binary=:all:", f"--python-version={version}", "--no-compile", *platforms),
            *(f"--target={partial}", *requirements()),
        ],
        check=True,
    )
    partial.rename(SITE)


def cross_environment() -> dict[str, str]:
    """Return the environment in which setuptools builds for arm64."""
    headers = ROOT / "usr/include"
    return os.environ | {
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "CC": COMPILER,
        "LDSHARED": f"{COMPILER} -shared",
        "CFLAGS": f"-I{headers / python().name} -idirafter {headers} -Werror",
    }


def build_core() -> None:
    """Build the core in a copy of the project."""
    say("building the core")
    shutil.copytree(TOP, TREE, ignore=NOT_COPIED, dirs_exist_ok=True)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, check=True, cwd=TREE, env=cross_environment())


def build_wheel(directory: str) -> int:
    """Build a wheel of the project itself."""
    code = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", code, directory]
    return subprocess.run(command, check=False, cwd=TOP, env=cross_environment()).returncode


def run_tests(arguments: list[str]) -> int:
    """Run pytest; return its exit status."""
    path = [TREE / "tools/aarch64", SITE, TREE]
    return subprocess.run(
        [
            *(emulator(), "-L", ROOT, python(), "-m", "pytest", "-o", "pythonpath="),
            *("-p", "no:cacheprovider", *arguments),
        ],
        check=False,
        cwd=TREE,
        env=os.environ
        | {
            "BUILD_PYTHON": sys.executable,
            "PYTHONPATH": ":".join(map(str, path)),
            "PYTHONSAFEPATH": "1",
        },
    ).returncode


def main(verb: str, *arguments: str) -> int:
    """Set up what is missing, build, and test."""
    require_tools(**{"apt-get": "apt", "dpkg-deb": "dpkg", COMPILER: f"gcc-{CROSS}"})
    if verb == "test":
        emulator()
    fetch_root()
    if verb == "wheel":
        return build_wheel(*arguments)
    fetch_packages()
    build_core()
    return run_tests(list(arguments))


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except subprocess.CalledProcessError as failure:
        sys.exit(failure.returncode)  # it has said why
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
