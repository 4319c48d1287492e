"""Records: words in memory, some of them registers of a context."""

import struct

import pytest

from monitor.monitor import Monitor
from pyvmm.arch.pas import GranuleProtectionFault, Pas
from pyvmm.core import Machine

BASE = 1 << 30


def test_record_shows_words_and_registers() -> None:
    """Both at their places; a later record shows what the registers are by then."""
    machine = Machine(BASE, 64 << 20)
    memory, context = machine.memory(Pas.NS), machine.new_context()
    record = machine.new_record(Pas.NS, 0x100, {"ich_lr": 0x10, "cntv_ctl": 0xF8})
    record.words[0] = 1
    context.ich_lr[0], context.ich_lr[15], context.cntv_ctl = 2, 3, 4
    record.write(BASE + 0x800, context)
    shown = struct.unpack("<32Q", memory.read(BASE + 0x800, 0x100))
    assert (shown[0], shown[2], shown[17], shown[31], sum(shown)) == (1, 2, 3, 4, 10)
    assert memory.read(BASE + 0x900, 8) == bytes(8)
    context.cntv_ctl = 5
    record.write(BASE, context)
    assert memory.read_u64(BASE + 0xF8) == 5


def test_record_is_refused_where_its_space_has_no_memory() -> None:
    """Nothing is written, and the fault names the place."""
    machine = Machine(BASE, 64 << 20)
    layout = Monitor(machine).layout
    record = machine.new_record(Pas.NS, 0x100, {})
    record.words[0] = 1
    for pa in (layout.rmm_base, BASE - 0x100, layout.dram_top):
        with pytest.raises(GranuleProtectionFault) as caught:
            record.write(pa, machine.new_context())
        assert caught.value.pa == pa
    assert machine.buffer(Pas.NS)[layout.rmm_base - BASE :][:8] == bytes(8)
