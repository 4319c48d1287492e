"""pyvmm measure: compute a realm's initial measurement."""

import json
from pathlib import Path

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import directory
from pyvmm.cli.common.options import FILE, GuestCommand, plan_options, vm_options
from pyvmm.cli.common.say import print_json_text, print_lines
from pyvmm.vm.control.api import Status
from pyvmm.vm.machine import measure as vm

_HELP = """Compute a realm's initial measurement (RIM) without running it.

Takes the options of `pyvmm run` (options that do not concern the guest have no effect), and prints
the RIM in hexadecimal. With the name of an instance instead of a kernel, prints the RIM of that
instance.

Exit code: 0 success or no difference; 1 --diff found a difference; 2 bad input.
"""


@click.command(cls=GuestCommand, help=_HELP)
@plan_options
@click.option("--log", "wants_log", is_flag=True, help="list every measured step")
@click.option(
    "--json", "wants_json", is_flag=True, help="print JSON; with --log, the input for --diff"
)
@click.option(
    "--host",
    metavar="NAME=N,...",
    help="as on a host with these RmiRealmParams: num_bps, num_wps, sve_vl, pmu_num_ctrs",
)
@click.option("--diff", nargs=2, type=FILE, metavar="A B", help="compare two logs in JSON")
def measure(  # noqa: D103  the help says it
    *,
    positional: Path | None,
    wants_log: bool,
    wants_json: bool,
    host: str | None,
    diff: tuple[Path, Path] | None,
    **asked: object,
) -> int:
    if diff is not None:
        return _compare(*diff, wants_json=wants_json)
    instance = _instance(positional)
    if instance is not None:
        if wants_log or host is not None:
            raise UserError(
                f"{instance.name} is an instance: --log and --host need the options of a realm"
            )
        if instance.rim is None:
            raise UserError(
                f"{instance.name} ({instance.kind}, {instance.state}) has no measurement"
            )
        _print(instance.rim, None, wants_json=wants_json)
        return 0
    _check_is_realm(positional, is_realm=bool(asked["is_realm"]))
    parameters = vm.parse_host(host) if host is not None else {}
    options = vm_options(positional, asked, is_run=False)
    plan = vm.RealmPlan(options)
    from pyvmm.platform import Platform, replay  # noqa: PLC0415  slow; check the input first

    steps = plan.measure(Platform(plan.memory_size, options.num_cpus))
    if parameters:
        steps = replay([vm.on_host(steps[0], parameters), *steps[1:]])
    _print(steps[-1].rim.hex(), plan.log(steps) if wants_log else None, wants_json=wants_json)
    return 0


def _check_is_realm(name: Path | None, *, is_realm: bool) -> None:
    if not is_realm and name is not None and not _exists(name):
        raise UserError(f"{name}: neither an instance (pyvmm list) nor a kernel (add --realm)")


def _instance(name: Path | None) -> Status | None:
    """Return the instance of that name, unless a file has the name."""
    if name is None or _exists(name):
        return None
    found = [status for status in directory().statuses() if status.name == str(name)]
    return found[0] if found else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long, or in a directory without permission
        return False


def _print(rim: str, log: list[vm.Entry] | None, *, wants_json: bool) -> None:
    if wants_json:
        shown = {"rim": rim} if log is None else {"rim": rim, "log": log}
        print_json_text(json.dumps(shown, indent=1))
    elif log is None:
        print_lines(rim)
    else:
        print_lines(*map(vm.format_entry, log), f"{'RIM':<12} {rim}")


def _compare(one: Path, other: Path, *, wants_json: bool) -> int:
    """Print the first step that differs."""
    found = vm.first_difference(vm.read_log(one), vm.read_log(other))
    if found is None:
        print_lines("null" if wants_json else "no difference")
        return 0
    number, *sides = found
    if wants_json:
        print_json_text(json.dumps({"step": number, "sides": sides}, indent=1))
        return 1
    print_lines(f"step {number} is the first that differs:")
    for path, entry in zip((one, other), sides, strict=True):
        print_lines(f"{path}: {vm.format_entry(entry) if entry else '(none)'}")
    return 1
