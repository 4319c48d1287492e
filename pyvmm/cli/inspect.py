"""pyvmm inspect: show the settings of an instance, or look into its machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.text import Text

from pyvmm.arch.errors import UserError
from pyvmm.arch.pictures import WalkPicture
from pyvmm.cli.common.instances import complete, directory, print_json
from pyvmm.cli.common.settings import show_settings
from pyvmm.cli.pictures import caches, canvas, memory, state, tables
from pyvmm.vm.control.api import Api
from pyvmm.vm.control.client import connect
from pyvmm.vm.diagnosis.symbols import Symbols

_HELP = """Show the settings of an instance; with WHAT, look into its machine.

Without WHAT, the settings are those that the user gave, and the status. WHAT requires --observe of
`run` or `create`.

\b
WHAT is one of:
  gpt              the granule protection table, and the RMM's use of each granule
  granule ADDRESS  who may access a granule (PA), who owns it, what maps it
  walk ADDRESS     the translation of a virtual address, or of an IPA with --ipa
  rtt              the realm translation tables
  realm, rec       their attributes, by the names in the specification
  pe               the registers of each PE, those of EL2 included
  gic, timers      the virtual CPU interface and the timers of each PE
  tlb              the translations that each PE has cached
  code [ADDRESS]   the code that a PE has executed, at a virtual address or its PC, and what of it
                   is translated to the host's instructions
  queues           the virtqueues, and the requests that wait in them

The guest stands still for an instant. This is the simulator's privilege: no real host can see it.
"""
_WHAT: Final = (
    "gpt", "granule", "walk", "rtt", "realm", "rec", "pe", "gic", "timers",
    "tlb", "code", "queues",
)  # fmt: skip
_WITH_ADDRESS: Final = frozenset({"granule", "walk"})
_MAYBE_WITH_ADDRESS: Final = frozenset({"code"})
Picture = msgspec.Struct | Sequence[msgspec.Struct]


class Query:
    """What to look at."""

    def __init__(
        self,
        address: int | None,
        pe: int,
        el: int | None,
        symbols: Symbols | None,
        *,
        is_ipa: bool,
    ) -> None:
        self.address = address or 0  # of a picture that requires one
        self.chosen = address
        self.pe = pe
        self.el = el
        self.symbols = symbols
        self.is_ipa = is_ipa


def _look(api: Api, what: str, query: Query) -> tuple[Picture, Iterator[Text]]:
    """Return a picture, and its lines."""
    match what:
        case "gpt":
            return (gpt := api.observe_gpt()), memory.gpt_lines(gpt)
        case "granule":
            granule = api.observe_granule(query.address)
            return granule, memory.granule_lines(granule)
        case "walk":
            walk = _walk(api, query)
            return walk, tables.walk_lines(walk, is_ipa=query.is_ipa)
        case "rtt":
            return (rtt := api.observe_rtt()), tables.rtt_lines(rtt)
        case "realm":
            return (realms := api.observe_realms()), state.record_lines("realm", realms)
        case "rec":
            return (recs := api.observe_recs()), state.record_lines("REC", recs)
        case "pe":
            return (pes := api.observe_pes()), state.pe_lines(pes)
        case "gic":
            return (gics := api.observe_gic()), state.gic_lines(gics)
        case "timers":
            return (timers := api.observe_timers()), state.timer_lines(timers)
        case "tlb":
            return (tlbs := api.observe_tlbs()), caches.tlb_lines(tlbs)
        case "code":
            code = api.observe_code(query.chosen, pe=query.pe)
            return code, caches.code_lines(code)
        case _:
            return (queues := api.observe_queues()), state.queue_lines(queues)


def _walk(api: Api, query: Query) -> WalkPicture:
    walk = api.observe_walk(query.address, pe=query.pe, el=query.el, is_ipa=query.is_ipa)
    if query.symbols is None:
        return walk
    vbar = int(api.observe_pes()[query.pe].system["VBAR_EL1"], 16)
    return msgspec.structs.replace(walk, symbol=query.symbols.find(query.address, vbar=vbar))


@click.command("inspect", help=_HELP)
@click.argument("name", metavar="NAME", shell_complete=complete)
@click.argument("what", metavar="[WHAT]", type=click.Choice(_WHAT), required=False)
@click.argument("address", metavar="[ADDRESS]", required=False)
@click.option("--pe", type=click.IntRange(min=0), default=0, metavar="N", help="of a walk, of code")
@click.option("--el", type=click.Choice(["0", "1"]), help="walk at this exception level")
@click.option("--ipa", "is_ipa", is_flag=True, help="ADDRESS is an intermediate physical address")
@click.option(
    "--vmlinux",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="ELF file with the symbols of the kernel, to name the address of a walk",
)
@click.option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="write an SVG file")
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def inspect(
    name: str,
    what: str | None,
    address: str | None,
    *,
    pe: int,
    el: str | None,
    is_ipa: bool,
    vmlinux: Path | None,
    svg: Path | None,
    wants_json: bool,
) -> None:
    """Take a picture and show it."""
    if what is None:
        show_settings(name, wants_json=wants_json)
        return
    symbols = Symbols(vmlinux) if vmlinux else None
    number = _parse_address(what, address)
    query = Query(number, pe, int(el) if el else None, symbols, is_ipa=is_ipa)
    with connect(directory(), name) as client:
        picture, lines = _look(client.api, what, query)
    if wants_json:
        print_json(picture)
    elif svg is not None:
        canvas.save(svg, f"{name}: {what}", lines)
    else:
        canvas.show(lines)


def _parse_address(what: str, address: str | None) -> int | None:
    if what not in _WITH_ADDRESS | _MAYBE_WITH_ADDRESS:
        if address is not None:
            raise UserError(f"{what} takes no address: omit {address!r}")
        return None
    if address is None:
        if what in _WITH_ADDRESS:
            raise UserError(f"{what} requires an address, such as 0x80000000")
        return None
    try:
        number = int(address, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 64:
        raise UserError(f"{address!r} is not an address: give a number such as 0x80000000")
    return number
