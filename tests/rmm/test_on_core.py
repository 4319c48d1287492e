"""The RMM on the real machine, under the real Monitor: what a realm does, and what C walks."""

import random
from typing import Final, cast

from keystone import KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN, Ks

from monitor.monitor import Monitor
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import (
    EXIT_OFFSET,
    RealmParams,
    RecEnter,
    RecEnterFlags,
    RecExit,
    RecExitReason,
    RecParams,
    RmiFid,
)
from pyvmm.arch.rsi import HostCall, RealmConfig
from pyvmm.arch.stage2 import ADDRESS_MASK, NS, PAGE_LEVEL, VALID, level_size
from pyvmm.core import Machine
from pyvmm.core.machine import PeContext
from rmm import protocols
from rmm.rmm import Rmm

DRAM_BASE: Final = 0x4000_0000
UNPROTECTED: Final = 1 << 32
MIB2: Final = 2 << 20

GUEST: Final = """
    ldr  x0, =0xC4000190        // RSI_VERSION
    mov  x1, #0x10000
    smc  #0
    mov  x20, x1
    mrs  x21, id_aa64dfr0_el1
    mov  x5, #0x3000            // RAM that the host has yet to provide
    mov  x6, #77
    str  x6, [x5]
    ldr  x0, =0xC4000196        // RSI_REALM_CONFIG
    mov  x1, #0x4000
    smc  #0
    mov  x9, #0x100000000       // a device
    mov  w6, #0x1234
    str  w6, [x9, #0x10]
    ldrsb x22, [x9, #0x11]
    ldr  x0, =0xC4000199        // RSI_HOST_CALL
    mov  x1, #0x5000
    smc  #0
    ldr  x0, =0x84000008        // SYSTEM_OFF
    smc  #0
"""


class Host:
    """A host at the SMC waist of a real machine."""

    def __init__(self) -> None:
        """Boot the firmware and make a realm with tables for its first pages."""
        self.machine = Machine(DRAM_BASE, 64 << 20, 2)
        monitor = Monitor(self.machine)
        machine = cast("protocols.Machine", self.machine)  # cffi's structs have no Python type
        self.rmm = Rmm(machine, monitor.conduit(Pas.REALM))
        assert monitor.boot(self.rmm) == 0
        self.smc = monitor.conduit(Pas.NS).smc
        self.ns = self.machine.memory(Pas.NS)
        self.next = DRAM_BASE
        params = RealmParams.of(
            s2sz=33,
            num_bps=1,
            num_wps=1,
            vmid=3,
            rtt_base=self.delegated(),
            rtt_level_start=1,
            rtt_num_start=1,
        )
        self.rd = self.delegated()
        self.do(RmiFid.RMI_REALM_CREATE, self.rd, self.granule(bytes(params)))
        for ipa in (0, UNPROTECTED):
            for level in (2, 3):
                self.do(RmiFid.RMI_RTT_CREATE, self.rd, self.delegated(), ipa, level)

    def do(self, fid: int, *args: int) -> tuple[int, ...]:
        """Issue a command that must succeed."""
        results = self.smc(0, (fid, *args))
        assert results[0] == 0, f"{RmiFid(fid).name}: {results}"
        return results[1:]

    def granule(self, data: bytes = b"") -> int:
        """Allocate a granule of the host."""
        pa, self.next = self.next, self.next + GRANULE_SIZE
        self.ns.write(pa, data)
        return pa

    def delegated(self) -> int:
        """Allocate a granule and delegate it."""
        pa = self.granule()
        self.do(RmiFid.RMI_GRANULE_DELEGATE, pa)
        return pa

    def rec(self, pc: int) -> int:
        """Create a REC and activate the realm."""
        aux = (self.delegated(), self.delegated(), *[0] * 14)
        params = RecParams.of(flags=1, pc=pc, num_aux=2, aux=aux)
        rec = self.delegated()
        self.do(RmiFid.RMI_REC_CREATE, self.rd, rec, self.granule(bytes(params)))
        self.do(RmiFid.RMI_REALM_ACTIVATE, self.rd)
        return rec

    def enter(self, rec: int, run: int, enter: RecEnter) -> RecExit:
        """Enter a REC."""
        self.ns.write(run, enter.data)
        self.do(RmiFid.RMI_REC_ENTER, rec, run)
        return RecExit(self.ns.read(run + EXIT_OFFSET, RecExit.size))


def test_realm_lives() -> None:
    """Calls, missing pages, a device, a host call and the end, by instructions of the guest."""
    host = Host()
    host.do(RmiFid.RMI_RTT_INIT_RIPAS, host.rd, 0x1000, 0x6000)
    code = bytes(Ks(KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN).asm(GUEST)[0])
    host.do(RmiFid.RMI_DATA_CREATE, host.rd, host.delegated(), 0x1000, host.granule(code), 1)
    rec, run = host.rec(0x1000), host.granule()
    pages: dict[int, int] = {}
    seen: list[object] = []
    enter = RecEnter()
    while not seen or seen[-1] != RecExitReason.PSCI:
        leave = host.enter(rec, run, enter)
        enter, ipa = RecEnter(), leave.hpfar << 8
        if leave.exit_reason != RecExitReason.SYNC:
            seen.append(RecExitReason(leave.exit_reason))
        elif ipa < UNPROTECTED:
            pages[ipa] = host.delegated()
            host.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, host.rd, pages[ipa], ipa)
        else:
            seen.append((leave.far, leave.gprs[0]))
            enter = RecEnter.of(flags=RecEnterFlags.EMUL_MMIO, gprs=(0x80, *[0] * 30))
    assert seen == [(0x10, 0x1234), (0x11, 0), RecExitReason.HOST_CALL, RecExitReason.PSCI]
    memory = host.machine.memory(Pas.REALM)
    assert memory.read(pages[0x3000], 1) == bytes([77])
    assert RealmConfig(memory.read(pages[0x4000], 4096)).ipa_width == 33
    assert HostCall(memory.read(pages[0x5000], 256)).imm == 0
    x = host.rmm.recs[rec].context.x
    assert (x[20], x[22]) == (0x1_0000, (1 << 64) - 0x80)
    assert (x[21] >> 12 & 0xF, x[21] >> 20 & 0xF, x[21] >> 8 & 0xF) == (1, 1, 0)
    assert host.smc(0, (RmiFid.RMI_REC_ENTER, rec, run))[0] == 0x102


def test_walks_in_c_and_in_python_agree() -> None:
    """After any change, each IPA is mapped for a PE exactly as the RMM's tables say."""
    generator = random.Random(5)
    host = Host()
    context = cast("PeContext", host.rmm.recs[host.rec(0)].context)
    tree, pe = host.rmm.realms[host.rd].rtt, host.machine.pe(0)
    ipas = [base + page for base in (0, MIB2, UNPROTECTED) for page in (0, 0x1000, 0x1F_F000)]
    free = [host.delegated() for _ in range(6)]
    shared = [host.granule() for _ in range(3)]
    for _ in range(150):
        ipa = generator.choice(ipas)
        match generator.randrange(4):
            case 0 if free:
                data = free[-1]
                if not host.smc(0, (RmiFid.RMI_DATA_CREATE_UNKNOWN, host.rd, data, ipa))[0]:
                    free.pop()
                    walk = tree.walk(ipa, PAGE_LEVEL)
                    tree.set_entry(walk, ipa, data | 0x7DB)  # as if the RIPAS were RAM
            case 1:
                results = host.smc(0, (RmiFid.RMI_DATA_DESTROY, host.rd, ipa))
                free += [results[1]] if results[0] == 0 else []
            case 2:
                desc = generator.choice(shared) | 6 << 2 | 3 << 6
                host.smc(0, (RmiFid.RMI_RTT_MAP_UNPROTECTED, host.rd, ipa, 3, desc))
            case _:
                host.smc(0, (RmiFid.RMI_RTT_UNMAP_UNPROTECTED, host.rd, ipa, 3))
        pe.run(host.machine.copy_context(context), 1)  # a PE serves invalidations when it enters
        for each in ipas:
            table, index, level = tree.walk(each, PAGE_LEVEL)
            entry = table.entries[index]
            fault, pa, pas, is_stage2 = pe.translate(context, each)
            if entry & VALID:
                assert (fault, pa) == (0, entry & ADDRESS_MASK & -level_size(level))
                assert pas is (Pas.NS if entry & NS else Pas.REALM)
            else:
                assert (fault, is_stage2) == (0b000100 | level, True)
