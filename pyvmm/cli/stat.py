"""pyvmm stat: show what instances have done and what they use."""

from collections.abc import Iterator, Mapping

import click

from pyvmm.cli.balloon import lines as balloon_lines
from pyvmm.cli.common.instances import Chosen, print_json, several
from pyvmm.cli.common.say import print_lines
from pyvmm.cli.common.units import size
from pyvmm.vm.control.api import Balloon, Statistics
from pyvmm.vm.control.client import Client

_HELP = """Show what instances have done since their start, and what they use.

For each vCPU: the instructions that it has executed, and its exits to the host, by reason. For each
physical address space: its granules, and the host memory that they use. For a
realm: the revision of RMI that its host uses.
"""


@click.command(help=_HELP)
@several
@click.option(
    "-m", "--memory", is_flag=True, help="show the memory statistics of guests with a balloon"
)
@click.option("--json", "wants_json", is_flag=True, help="print JSON, keyed by name")
def stat(chosen: Chosen, *, memory: bool, wants_json: bool) -> int:
    """Print the statistics of each instance."""
    found: dict[str, Statistics | Balloon] = {}

    def look(client: Client) -> None:
        found[client.name] = client.api.balloon() if memory else client.api.statistics()

    code = chosen.each(look)
    if wants_json:
        print_json(found)
    elif found:
        print_lines(*_lines(found))
    return code


def _lines(found: Mapping[str, Statistics | Balloon]) -> Iterator[str]:
    """Yield a paragraph for each instance, separated by empty lines."""
    for number, (name, each) in enumerate(found.items()):
        if number:
            yield ""
        yield name
        text = balloon_lines(each) if isinstance(each, Balloon) else _rows(each)
        yield from (f"  {line}" for line in text)


def _rows(statistics: Statistics) -> Iterator[str]:
    rows = []
    for cpu, vcpu in enumerate(statistics.vcpus):
        rows.append((f"vCPU {cpu}", {"instructions": vcpu.instructions} | vcpu.exits))
    rows += statistics.devices.items()
    for part, counts in rows:
        text = "  ".join(f"{what.replace('_', ' ')} {n}" for what, n in counts.items() if n)
        yield f"{part:<10}  {text or '-'}"
    for pas, memory in statistics.memory.items():
        what = f"granules {memory.granules}  resident {size(memory.resident)}"
        yield f"{pas:<10}  {what}"
    if statistics.rmi is not None:
        yield f"{'RMI':<10}  {statistics.rmi}"
