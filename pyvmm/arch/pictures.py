"""What an observer sees of a machine: plain data, for any program to show.

Addresses and register values are hexadecimal texts, because many JSON readers round large numbers;
sizes are in bytes.  ``pyvmm.observe`` makes the pictures.
"""

import msgspec


class Region(msgspec.Struct, frozen=True):
    """Granules in a row whose GPT entries are alike."""

    base: str
    size: int
    gpi: str  # name of the Gpi
    form: str  # how the table describes them: "block", "granules", or the size of contiguous ones


class Use(msgspec.Struct, frozen=True):
    """Granules in a row that the RMM uses for the same purpose."""

    base: str
    size: int
    state: str  # name of the RMM's GranuleState


class Difference(msgspec.Struct, frozen=True):
    """A granule about which the GPT and the RMM do not agree."""

    pa: str
    gpi: str
    state: str


class GptPicture(msgspec.Struct, frozen=True, kw_only=True):
    """The granule protection table as it is in Root memory, and the RMM's use of the granules."""

    table: str  # GPTBR_EL3: address of the L0 table, in Root memory
    gpccr: str
    dram_base: str
    dram_size: int
    regions: list[Region]  # of DRAM, ascending, without gaps
    granules: dict[str, int]  # their number, by GPI
    uses: list[Use]  # of the memory that the RMM manages, ascending, without gaps
    states: dict[str, int]  # number of granules, by state
    differences: list[Difference]  # the first ones; empty if all is well
    num_differences: int


class GranulePicture(msgspec.Struct, frozen=True, kw_only=True):
    """One granule: who may access it, who owns it, and what maps it."""

    pa: str
    gpi: str
    gpt_entry: str  # the level-1 entry that describes it
    gpt_entry_pa: str  # and its address in Root memory
    state: str
    owner: str  # such as "realm 0x…: RTT of level 3", empty without an owner
    ipas: list[str]  # the realm's or the VM's addresses that map it
    accesses: dict[str, str]  # "" if that world may access it, otherwise why not


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One table entry read by a walk."""

    stage: int
    level: int
    address: str  # of the entry: physical
    pas: str
    index: int
    descriptor: str
    kind: str  # "table", "block", "page" or "invalid"
    output: str  # the address in the entry; an IPA at stage 1
    fields: dict[str, str]  # by name in the Arm manual


class AccessResult(msgspec.Struct, frozen=True):
    """What one kind of access would do: nothing wrong, or a fault as a syndrome reports it."""

    access: str  # "read", "write" or "fetch"
    is_allowed: bool
    fault: str = ""  # in words
    taken_to: str = ""  # "EL1", or "EL2" for a fault of stage 2 or of the protection check
    esr: str = ""


class WalkPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A translation, step by step, and what accesses would do."""

    address: str
    pe: int
    el: int
    steps: list[Step]
    ipa: str | None  # the result of stage 1
    pa: str | None  # the result of the walk
    pas: str | None
    gpi: str | None  # of the granule at that address
    accesses: list[AccessResult]  # none for the walk of an IPA
    symbol: str = ""  # of the address, if symbols are known


class EntryRun(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of a translation table in a row that are alike but for their addresses."""

    ipa: str
    index: int
    count: int
    size: int  # bytes that they cover
    state: str  # UNASSIGNED, ASSIGNED, UNASSIGNED_NS, ASSIGNED_NS or TABLE
    ripas: str  # empty for tables and unprotected IPAs
    pa: str  # that the first one refers to; empty if none
    descriptor: str  # of the first one


class TablePicture(msgspec.Struct, frozen=True, kw_only=True):
    """One realm translation table."""

    pa: str
    level: int
    ipa: str  # the first that it translates
    live: int  # entries, as the RMM counts them
    entries: list[EntryRun]


class RttPicture(msgspec.Struct, frozen=True):
    """The translation tables of a realm, each before the tables that it points to."""

    rd: str
    tables: list[TablePicture]


class Stage1Run(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of a table of stage 1 in a row that are alike but for their addresses."""

    va: str
    index: int
    count: int
    size: int  # bytes that they cover
    kind: str  # "table", "block", "page" or "invalid"
    output: str  # the IPA that the first one refers to; empty if none
    descriptor: str  # of the first one
    fields: dict[str, str]  # by name in the Arm manual


class Stage1Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One table of stage 1, as a PE uses it."""

    pe: int
    register: str  # "TTBR0_EL1" or "TTBR1_EL1"
    level: int
    va: str  # the first address that it translates
    ipa: str  # its address
    pa: str | None  # none if stage 2 does not map it
    runs: list[Stage1Run]


class RecordPicture(msgspec.Struct, frozen=True):
    """A realm or REC: its fields by their names in the specification."""

    address: str  # of the granule that names it
    fields: dict[str, str]


class PePicture(msgspec.Struct, frozen=True, kw_only=True):
    """The context of a PE while the guest stands still."""

    index: int
    world: str
    pstate: str
    registers: dict[str, str]
    system: dict[str, str]  # of EL1
    controls: dict[str, str]  # of EL2, with their fields that are not zero
    pmu: dict[str, str] = {}  # performance monitors; empty if EL1 may not access them


class InterruptPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A list register in use."""

    register: str
    intid: int
    name: str
    state: str
    priority: int
    group: int


class GicPicture(msgspec.Struct, frozen=True, kw_only=True):
    """The virtual CPU interface of one PE's context."""

    index: int
    list_registers: list[InterruptPicture]
    controls: dict[str, str]


class TimerPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A timer of one PE's context."""

    index: int
    name: str
    is_enabled: bool
    is_masked: bool
    is_asserted: bool
    compare: str
    counter: str
    due: float  # seconds until the condition is met; negative if it is


class TlbRun(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of a TLB for pages in a row that are alike but for their addresses."""

    level: str  # "data", "fetches", "second level" or "stage 2"
    regime: str  # the exception level, and PAN; empty at stage 2
    va: str  # of the first page; an IPA at stage 2
    pages: int
    pa: str
    pas: str
    access: str  # "r", "w", "x" or several of them
    asid: int | None  # None: not recorded, or global
    is_global: bool
    block: int  # bytes of the stage-1 block that the pages are part of; 0: none


class TlbPicture(msgspec.Struct, frozen=True, kw_only=True):
    """The translations that a PE has cached."""

    index: int
    pending: int  # invalidations that the PE will perform before its next instruction
    entries: dict[str, int]  # their number, by level
    runs: list[TlbRun]


class CodePage(msgspec.Struct, frozen=True):
    """A granule with code that a PE has executed."""

    pa: str
    pas: str
    decoded: int  # instructions
    translated: int  # of them, in regions
    regions: int


class CodeRow(msgspec.Struct, frozen=True):
    """An instruction that a PE has executed."""

    address: str
    word: str
    text: str
    state: str  # "decoded", "translated", or "region": translated, and a region begins here
    executions: int  # counted by the translator, at a place where a region may begin


class CodePicture(msgspec.Struct, frozen=True, kw_only=True):
    """What the interpreter and the translator of a PE know of the guest's code."""

    index: int
    pages: list[CodePage]  # those with most translated code first
    address: str  # the page that is shown
    rows: list[CodeRow]  # none if it is not mapped, or was not executed


class QueuePicture(msgspec.Struct, frozen=True, kw_only=True):
    """A virtqueue of one device, and the descriptors of the chains that wait in it."""

    device: str
    index: int
    size: int
    is_ready: bool
    descriptors: str  # addresses, as the driver gives them
    available: str
    used: str
    waiting: int  # chains that the driver has made available and the device has not taken
    chains: list[str]  # the first of them, one text each
