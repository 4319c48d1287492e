"""Attestation tokens from inside a realm, with the real root of trust."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.result import Result
from benchmarks.rmm import RAM, RAM_SIZE, Device, assemble
from pyvmm.arch.events import Event, EventStream, RsiCall
from pyvmm.arch.rsi import RsiFid, RsiStatus
from pyvmm.host.guest import GuestConfig, RealmOptions, Segment
from pyvmm.host.vgic import Vgic
from pyvmm.platform import Platform
from pyvmm.root_of_trust import RootOfTrust

NUM_TOKENS = 30
PAGE = RAM + (1 << 20)
#: Requests X2 tokens in the page at X1, then turns itself off.
TOKENS = """
    mov x20, x1; mov x21, x2
    again: movz x0, #0xC400, lsl #16; movk x0, #0x0194; smc #0
    more: movz x0, #0xC400, lsl #16; movk x0, #0x0195; mov x1, x20; mov x2, #0; mov x3, #4096
    smc #0; cmp x0, #3; b.eq more
    subs x21, x21, #1; b.ne again
    movz x0, #0x8400, lsl #16; movk x0, #8; smc #0
"""


def token() -> Iterator[Result]:
    """A token in a realm, from RSI_ATTESTATION_TOKEN_INIT to its last byte."""
    begun, done = [], []

    def listener(event: Event) -> None:
        if isinstance(event, RsiCall):
            if event.command == RsiFid.RSI_ATTESTATION_TOKEN_INIT.name:
                begun.append(time.perf_counter())
            elif event.results[0] == RsiStatus.SUCCESS:
                done.append(time.perf_counter())

    config = GuestConfig(
        1, RAM, RAM_SIZE, (Segment(RAM, assemble(TOKENS)),), RAM, (0, PAGE, NUM_TOKENS, 0)
    )
    with tempfile.TemporaryDirectory() as directory, RootOfTrust(Path(directory) / "hes") as hes:
        platform = Platform(RAM_SIZE, 1, EventStream(), root_of_trust=hes)
        guest = platform.new_guest(config, Device(), Vgic(1), RealmOptions())
        guest.build()
        platform.events.listener = listener
        guest.start()
        guest.wait()
        guest.close()
    assert len(begun) == len(done) == NUM_TOKENS
    times = [end - start for start, end in zip(begun, done, strict=True)]
    yield Result("realm-token", median(times) * 1e6, "µs", goal=15_000)
