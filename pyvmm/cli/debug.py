"""pyvmm debug: show the state of an instance's CPUs; send SysRq and NMIs."""

from collections.abc import Iterator, Sequence
from typing import Final

import click

from pyvmm.arch.text import printable
from pyvmm.cli.common.instances import directory, instance_name, named, print_json
from pyvmm.cli.common.say import print_lines
from pyvmm.vm.control.api import Vcpu
from pyvmm.vm.control.client import connect
from pyvmm.vm.exit_code import ExitCode

#: The system registers that are shown: the last exception, and the translation tables.
_SHOWN: Final = (
    *("ESR_EL1", "FAR_EL1", "ELR_EL1", "SPSR_EL1", "VBAR_EL1", "SCTLR_EL1"),
    *("TTBR0_EL1", "TTBR1_EL1", "TCR_EL1"),
)
_HELP = """Show registers, stack and code of each CPU of an instance.

The guest pauses for an instant. A realm must have been created with --realm-debug.
--sysrq and --nmi show nothing unless --dump or --json is given too; see the guest's console for
their effect.
"""


@click.command(help=_HELP)
@named
@click.option("-d", "--dump", is_flag=True, help="show the state of the CPUs (the default)")
@click.option("-s", "--sysrq", metavar="KEY", help="press Alt-SysRq-KEY on the guest's console")
@click.option(
    "-m", "--nmi", type=int, metavar="CPU", help="send an SError to this CPU: Linux panics"
)
@click.option(
    "--json", "wants_json", is_flag=True, help="print JSON, including all system registers"
)
def debug(
    name: str | None,
    option: str | None,
    *,
    dump: bool,
    sysrq: str | None,
    nmi: int | None,
    wants_json: bool,
) -> int:
    """Send what was requested, then show the CPUs."""
    with connect(directory(), instance_name(name, option)) as client:
        if sysrq is not None:
            client.api.sysrq(printable(sysrq))
        if nmi is not None:
            client.api.nmi(nmi)
        if not dump and not wants_json and (sysrq is not None or nmi is not None):
            return ExitCode.OK
        vcpus = client.api.debug()
    if wants_json:
        print_json(vcpus)
    else:
        print_lines(*_lines(vcpus))
    return ExitCode.OK


def _lines(vcpus: Sequence[Vcpu]) -> Iterator[str]:
    for cpu, vcpu in enumerate(vcpus):
        yield f"CPU {cpu}: {'on' if vcpu.is_on else 'off'}, {vcpu.pstate}"
        yield from _columns(vcpu.registers, 4)
        yield from _columns({name: vcpu.system[name] for name in _SHOWN}, 3)
        if vcpu.stack:
            yield "  stack"
        yield from _columns(vcpu.stack, 2)
        if vcpu.code:
            yield "  code"
        for line in vcpu.code:
            mark = ">" if line.address == vcpu.registers["pc"] else " "
            yield f"  {mark} {line.address[2:]}: {line.word}  {line.text}"
        yield ""


def _columns(pairs: dict[str, str], count: int) -> Iterator[str]:
    """Yield lines of `count` names and values each."""
    width = max(map(len, pairs), default=0)
    cells = [f"{name:>{width}} {value[2:]}" for name, value in pairs.items()]
    for start in range(0, len(cells), count):
        yield "  " + "  ".join(cells[start : start + count])
