"""The C extension, and what a distribution computes; everything else is in pyproject.toml."""

import os
import re
import shlex
import shutil
import sysconfig
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
#: Where `make dist` puts the man pages and completions, which a built pyvmm prints.
SHARE = ROOT / "share"


class BuildCore(build_ext):
    """Builds the core, or says in one line why it cannot."""

    def run(self) -> None:
        """Build all extensions."""
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
        header = Path(sysconfig.get_path("include"), "Python.h")
        if not shutil.which(compiler):
            self._fail(f"no C compiler ({compiler}) on PATH", "gcc and libc6-dev")
        if not header.exists():
            self._fail(f"no {header}", "python3-dev")
        super().run()

    @staticmethod
    def _fail(what: str, packages: str) -> None:
        raise SystemExit(
            f"error: the core of pyvmm cannot be built: {what}: install Debian's {packages}, or a"
            " wheel: pip install --only-binary pyvmm pyvmm"
        )


def description() -> str:
    """Return the README for a page elsewhere: with links to the repository, or without them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    repository = project.get("urls", {}).get("Repository")
    target = rf"[\1]({repository}/blob/main/\2)" if repository else r"\1 (`\2`)"
    return re.sub(r"\[([^]]+)\]\((?!https?:|#)([^)]+)\)", target, (ROOT / "README.md").read_text())


def share() -> list[tuple[str, list[str]]]:
    """Return the files of `share` by their directories."""
    files = sorted(path for path in SHARE.rglob("*") if path.is_file())
    places = sorted({path.parent for path in files})
    return [
        (
            f"share/{place.relative_to(SHARE)}",
            [str(path.relative_to(ROOT)) for path in files if path.parent == place],
        )
        for place in places
    ]


setup(
    cffi_modules=["pyvmm/core/build.py:ffi"],
    cmdclass={"build_ext": BuildCore},
    data_files=share(),
    long_description=description(),
    long_description_content_type="text/markdown",
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # cffi builds for the stable ABI
)
