"""Run the benchmarks, print a table, write build/bench.json."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import (
    attestation,
    baremetal,
    boot,
    disk,
    network,
    programs,
    rmm,
    tlbi,
    verify,
    walk,
)
from benchmarks.result import Result

OUTPUT = Path("build/bench.json")
BENCHMARKS: dict[str, Callable[[], Iterator[Result]]] = {
    "alu": baremetal.alu,
    "load-store": baremetal.load_store,
    "walk": walk.walk,
    "tlbi": tlbi.tlbi,
    "rmm": rmm.rmm,
    "token": attestation.token,
    "verify": verify.verification,
    "list": boot.list_instances,
    "realm-hello": boot.realm_hello,
    "realm-banner": boot.realm_banner,
    "debian": boot.debian,
    "page-size": boot.page_size,
    "disk": disk.disk,
    "programs": programs.programs,
    "two-cpus": programs.two_cpus,
    "network-tap": network.tap,
    "network-user": network.user,
}


def table(results: list[Result]) -> Table:
    """Return the results as a table."""
    view = Table("benchmark", "unit")
    for title in ("pyvmm", "goal", "QEMU", "ratio", ""):
        view.add_column(title, justify="right")
    for result in results:
        figures = (result.value, result.goal, result.peer, result.ratio)
        texts = ["" if figure is None else f"{figure:.2f}" for figure in figures]
        view.add_row(result.name, result.unit, *texts, "" if result.is_met else "missed")
    return view


def record(results: list[Result]) -> dict[str, dict[str, float | str | None]]:
    """Return the content of bench.json: name to value, unit, peer's value and ratio."""
    return {
        result.name: {
            "value": result.value,
            "unit": result.unit,
            "peer": result.peer,
            "ratio": result.ratio,
        }
        for result in results
    }


def main() -> int:
    """Run all benchmarks, or only the one given by --only."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), help="run only this one")
    only = parser.parse_args().only
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users' Pythons keep what they compile
    results: list[Result] = []
    for name, benchmark in BENCHMARKS.items():
        if only in {None, name}:
            print(f"{name}: {benchmark.__doc__}", file=sys.stderr)
            results += benchmark()
    Console().print(table(results))
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(record(results), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
