"""The wheel: installed where there is no compiler, it runs, and is what measured boot measures.

The core in it is the one that `make setup` has built: building it takes minutes. `make dist` builds
the wheel that is published, and checks that.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from hes import image
from tests.meta.test_tree import ROOT

PACKAGES = ("pyvmm", "rmm", "monitor", "hes")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
_A_DAY = 86400


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command that succeeds; return its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.pyc", "*.so"))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    """Build the wheel; setuptools finds a core that is newer than its sources."""
    (core,) = (ROOT / "pyvmm" / "core").glob("_core.*.so")
    lib = f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    place = source / "build" / lib / "pyvmm" / "core" / core.name
    place.parent.mkdir(parents=True)
    shutil.copy(core, place)
    os.utime(place, (time.time() + _A_DAY,) * 2)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    out = source / "dist"
    run(*pip, "--no-build-isolation", "--no-deps", "--wheel-dir", out, source)
    (made,) = out.glob("*.whl")
    return made


def test_the_wheel_runs_where_there_is_no_compiler(wheel: Path, tmp_path: Path) -> None:
    """In an empty environment: a realm, and the platform that its files are predicted to be."""
    assert wheel.name.split("-", 2)[2].startswith("cp311-abi3-linux_")
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (packages,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    others = Path(pytest.__file__).parents[1]  # what the wheel depends on
    (packages / "others.pth").write_text(f"{others}\n")
    (tmp_path / "run").mkdir(mode=0o700)
    env = {
        "PATH": str(tmp_path / "venv" / "bin"),
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
    }
    pyvmm = tmp_path / "venv" / "bin" / "pyvmm"
    assert run(pyvmm, "run", "--realm", "--sandbox", "strict", env=env).startswith("Hello from a")
    files = tmp_path / "files"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(files)
    platform = json.loads(run(pyvmm, "endorse", env=env))["platform"]
    found = {
        each["measurement-type"]: each["measurement-value"] for each in platform["sw-components"]
    }
    for kind, parts in (
        ("RT_0", image.HES_FILES),
        ("SYS_CTRL_2", image.MACHINE_FILES),
        ("SECURE_RT_EL3", image.MONITOR_FILES),
    ):
        slot = hashlib.sha256(bytes(32) + image.digest(files, parts))  # extended once
        assert found[kind] == slot.hexdigest()
    for package in PACKAGES:
        assert (files / package / "py.typed").exists()


def test_without_a_compiler_the_source_says_so_in_one_line(source: Path) -> None:
    """And how to go on; pip shows it."""
    command = (sys.executable, "setup.py", "-q", "build_ext")
    env = os.environ | {"CC": "no-such-compiler -x"}
    done = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, check=False)
    assert done.returncode
    assert done.stderr.splitlines()[-1] == (
        "error: the core of pyvmm cannot be built: no C compiler (no-such-compiler) on PATH:"
        " install Debian's gcc and libc6-dev, or a wheel: pip install --only-binary pyvmm pyvmm"
    )


def test_the_description_has_no_link_that_leads_nowhere(wheel: Path) -> None:
    """On a page elsewhere, links into the tree do not work."""
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (each for each in packed.namelist() if each.endswith(".dist-info/METADATA"))
        text = packed.read(name).decode()
    assert "Description-Content-Type: text/markdown" in text
    assert "tutorial (`docs/tutorial.md`)" in text
    assert "](docs/" not in text
