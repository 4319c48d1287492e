"""Pictures of a machine with realms: GPT and books, granules, tables, records."""

from contextlib import nullcontext

import pytest

from pyvmm.arch import gpt
from pyvmm.arch.errors import UserError
from pyvmm.arch.gpt import Gpi
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RmiFid
from pyvmm.observe.observer import Observer
from tests.rmm.core_world import CoreWorld
from tests.rmm.world import DRAM_BASE

PAGE_IPA = 3 * GRANULE_SIZE


class Rig:
    """A realm with one page and one REC, and the observer of its machine."""

    def __init__(self) -> None:
        self.world = CoreWorld()
        self.rd = self.world.realm()
        self.page = self.world.delegated()
        self.world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, self.rd, self.page, PAGE_IPA)
        self.rec = self.world.rec(self.rd)
        table = self.world.monitor.gpt
        self.observer = Observer(
            self.world.core, (table.base_pa, int(table.gpccr)), self.world.rmm, nullcontext, tuple
        )


@pytest.fixture(scope="module")
def rig() -> Rig:
    """Return the rig; no test changes the realm."""
    return Rig()


def test_gpt_is_as_every_granule_says(rig: Rig) -> None:
    """The regions cover DRAM without gaps, and each granule has its region's GPI."""
    picture = rig.observer.gpt()
    end = DRAM_BASE
    for region in picture.regions:
        base = int(region.base, 16)
        assert base == end
        end = base + region.size
        for pa in {base, base + region.size - GRANULE_SIZE, base + region.size // 2 & ~0xFFF}:
            assert rig.world.monitor.gpi(pa).name == region.gpi
    assert end == DRAM_BASE + picture.dram_size
    counts = rig.world.monitor.count_granules()
    assert picture.granules == {Gpi(8 | pas).name: n for pas, n in counts.items() if n}
    assert (picture.differences, picture.num_differences) == ([], 0)


def test_books_name_the_use_of_each_granule(rig: Rig) -> None:
    """States and their numbers are the RMM's."""
    picture = rig.observer.gpt()
    states = {int(use.base, 16): use.state for use in picture.uses}
    assert (states[rig.rd], states[rig.page]) == ("RD", "DATA")
    assert picture.states["REC"] == 1


def test_a_forged_entry_is_a_difference() -> None:
    """The GPT gives a page of a realm to the normal world; the books say otherwise."""
    rig = Rig()
    entry = rig.observer.granule(rig.page)
    shift = rig.page >> 10 & 0x3C
    forged = int(entry.gpt_entry.split()[0], 16) & ~(0xF << shift) | Gpi.NS << shift
    root = rig.world.core.buffer(Pas.ROOT)
    offset = int(entry.gpt_entry_pa, 16) - DRAM_BASE
    root[offset : offset + 8] = forged.to_bytes(8, "little")
    picture = rig.observer.gpt()
    assert picture.num_differences == 1
    (difference,) = picture.differences
    assert (difference.pa, difference.gpi, difference.state) == (hex(rig.page), "NS", "DATA")


def test_granule_tells_owner_and_mapping(rig: Rig) -> None:
    """A page, a table, an RD, a REC and a granule of nobody."""
    page = rig.observer.granule(rig.page + 5)
    assert (page.pa, page.gpi, page.state) == (hex(rig.page), "REALM", "DATA")
    assert page.owner == f"realm {rig.rd:#x}: its memory"
    assert page.ipas == [hex(PAGE_IPA)]
    assert page.accesses["normal world, devices"].startswith("granule protection fault")
    assert page.accesses["realm world"] == page.accesses["EL3"] == ""
    tables = rig.observer.rtt()[0].tables
    leaf = next(table for table in tables if table.level == 3 and table.ipa == "0x0")
    assert rig.observer.granule(int(leaf.pa, 16)).owner.endswith("RTT of level 3 for IPA 0x0")
    assert rig.observer.granule(rig.rd).owner.endswith("its RD")
    assert rig.observer.granule(rig.rec).owner.endswith("granule of REC 0")
    assert rig.observer.granule(rig.world.ns_granule()).owner == ""


def test_rtt_has_every_entry_once(rig: Rig) -> None:
    """The runs of each table cover its 512 entries; the page is where it was put."""
    (picture,) = rig.observer.rtt()
    for table in picture.tables:
        index = 0
        for run in table.entries:
            assert run.index == index
            index += run.count
        assert index == 512
    runs = [run for table in picture.tables for run in table.entries if run.state == "ASSIGNED"]
    (run,) = runs
    assert (run.ipa, run.pa, run.count, run.ripas) == (hex(PAGE_IPA), hex(rig.page), 1, "EMPTY")


def test_walk_of_an_ipa_ends_at_the_page_or_tells_why_not(rig: Rig) -> None:
    """The REC's tables lead to the entry of the page, which is not RAM and so not valid."""
    walk = rig.observer.walk_ipa(0, PAGE_IPA)
    leaf = walk.steps[-1]
    assert (leaf.kind, leaf.fields["HIPAS"], leaf.fields["RIPAS"]) == ("invalid", "1", "0")
    assert walk.pa is None
    picture = rig.observer.walk(0, PAGE_IPA)  # stage 1 is off
    assert [each.taken_to for each in picture.accesses] == ["EL2"] * 3


def test_records_are_the_realm_s(rig: Rig) -> None:
    """RIM, VMID, owner and state."""
    (realm,) = rig.observer.realms()
    (rec,) = rig.observer.recs()
    measurements = rig.world.rmm.realms[rig.rd].measurements
    assert realm.fields["measurements[0] (RIM)"] == measurements.values[0].hex()
    assert (realm.address, realm.fields["state"]) == (hex(rig.rd), "NEW")
    assert (rec.address, rec.fields["owner"]) == (hex(rig.rec), hex(rig.rd))


def test_pes_interrupts_and_timers(rig: Rig) -> None:
    """One PE, with its registers of EL1 and EL2; a list register in use is decoded."""
    context = rig.world.rmm.recs[rig.rec].context
    context.ich_lr[1] = 1 << 62 | 1 << 60 | 0xA0 << 48 | 27
    (pe,) = rig.observer.pes()
    assert (pe.world, pe.registers["pc"]) == ("REALM", f"{context.pc:#018x}")
    assert "VM" in pe.controls["HCR_EL2"].split()
    (gic,) = rig.observer.gic()
    (register,) = gic.list_registers
    assert (register.register, register.name, register.state) == (
        "ICH_LR1_EL2", "virtual timer", "pending",
    )  # fmt: skip
    context.ich_lr[1] = 0
    assert [timer.name for timer in rig.observer.timers()] == ["virtual", "physical"]


def test_a_pe_shows_the_performance_monitors_of_its_guest(rig: Rig) -> None:
    """Only if it has some: each counter with its event and the levels that it counts at."""
    context = rig.world.rmm.recs[rig.rec].context
    assert rig.observer.pes()[0].pmu == {}
    context.mdcr_el2, context.pmcr, context.pmccntr = 2, 1, 0x1234
    context.pmevtyper[0], context.pmevtyper[1], context.pmevcntr[1] = 1 << 31 | 8, 0x23, 5
    pmu = rig.observer.pes()[0].pmu
    assert pmu["PMCR_EL0"] == "0x1 E"
    assert pmu["PMCCNTR_EL0"] == "0x1234 CPU_CYCLES at EL0 and EL1"
    assert pmu["PMEVCNTR0_EL0"] == "0x0 INST_RETIRED at EL0"
    assert pmu["PMEVCNTR1_EL0"] == "0x5 event 0x23 at EL0 and EL1"
    assert "PMEVCNTR2_EL0" not in pmu


def test_what_does_not_exist_is_a_mistake(rig: Rig) -> None:
    """An address outside DRAM, a PE that is not there."""
    with pytest.raises(UserError, match="not in DRAM"):
        rig.observer.granule(0)
    with pytest.raises(UserError, match="PE 1 does not exist: the guest has 1"):
        rig.observer.walk(1, 0)


def test_whole_gibibytes_without_a_level_1_table_are_read() -> None:
    """A block of level 0 gives all of it one GPI."""
    rig = Rig()
    root = rig.world.core.buffer(Pas.ROOT)
    table = rig.world.monitor.gpt.base_pa - DRAM_BASE + (DRAM_BASE >> gpt.L0_SHIFT) * 8
    block = gpt.L0_BLOCK | Gpi.SECURE << gpt.L0_BLOCK_GPI_SHIFT
    root[table : table + 8] = block.to_bytes(8, "little")
    regions = rig.observer.gpt().regions
    assert (regions[0].gpi, regions[0].form) == ("SECURE", "block")
