"""The witness: sees all worlds, and proves what the attacker learned and changed.

The simulator's privilege: it reads the machine and the RMM's books, and changes nothing.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

from monitor.monitor import Monitor
from pyvmm.arch.bits import MASK64
from pyvmm.arch.gpt import Gpi
from pyvmm.arch.pas import GRANULE_OFFSET, Pas
from pyvmm.arch.pictures import GptPicture
from pyvmm.arch.rmi import Ripas
from pyvmm.arch.stage2 import ADDRESS_MASK, PAGE_LEVEL, VALID
from pyvmm.core import Machine
from pyvmm.lab import code
from pyvmm.observe.observer import Observer
from rmm.rmm import Rmm
from rmm.rtt import ripas_of

_SECRET_REGISTERS: Final = (20, 21)


@dataclass(frozen=True)
class Secret:
    """The secret of one victim, and what must stay as it is."""

    rd: int
    rec: int
    words: tuple[int, ...]
    rim: bytes

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The words, as memory has them."""
        return tuple(word.to_bytes(8, "little") for word in self.words)


@dataclass(frozen=True)
class Proof:
    """What the witness found."""

    leaks: tuple[str, ...]  # where a part of a secret is that the host can see
    changes: tuple[str, ...]  # what is not as the realm left it
    looked_at: str  # empty: no realm was given a secret

    @property
    def is_clean(self) -> bool:
        """Whether nothing leaked and nothing changed."""
        return not self.leaks and not self.changes

    def __str__(self) -> str:
        if self.is_clean and not self.looked_at:
            return "no realm got as far as having a secret"
        if self.is_clean:
            return f"no byte of the secret in {self.looked_at}; the realm's state is unchanged"
        return "; ".join((*self.leaks, *self.changes))


class Witness:
    """Watches one machine during an attack."""

    def __init__(self, machine: Machine, monitor: Monitor, rmm: Rmm) -> None:
        self._machine = machine
        self._rmm = rmm
        self._gpt = (monitor.gpt.base_pa, monitor.gpt.gpccr)
        self._secrets: list[Secret] = []
        self._words: set[int] = set()  # in results and registers
        self._num_results = 0
        self._leaks: dict[str, None] = {}

    def victim(self, rd: int, rec: int) -> None:
        """Learn the secret of a realm that has just made one."""
        x = self._rmm.recs[rec].context.x
        words = tuple(x[n] for n in _SECRET_REGISTERS)
        self._secrets.append(Secret(rd, rec, words, self._rmm.realms[rd].measurements.values[0]))

    def rim(self, rd: int) -> bytes:
        """Return a realm's initial measurement."""
        return self._rmm.realms[rd].measurements.values[0]

    # --- what the host learns -------------------------------------------------------------

    def saw_words(self, words: Sequence[int]) -> None:
        """Take note of the results of a call."""
        self._num_results += 1
        self._words.update(words)

    def saw_bytes(self, where: str, data: bytes) -> None:
        """Take note of bytes that the host read."""
        for secret in self._secrets:
            if any(part in data for part in secret.parts):
                self._leaks[f"a part of the secret is in {where}"] = None

    def confirms(self, claims: Sequence[tuple[int, int]]) -> bool:
        """Check what the host claims to know: values and masks of a secret's first word."""
        words = [secret.words[0] for secret in self._secrets]
        return all(value in {word & mask for word in words} for value, mask in claims)

    # --- the proof ------------------------------------------------------------------------

    def proof(self) -> Proof:
        """Search for the secrets, and compare the realms with what they were."""
        memory = bytes(self._machine.buffer(Pas.NS))
        self.saw_bytes("Non-secure memory", memory)
        for secret in self._secrets:
            if self._words & {word & MASK64 for word in secret.words}:
                self._leaks["a part of the secret is in the result of a call"] = None
        changes = [change for secret in self._secrets for change in self._changes(secret)]
        if count := self._picture().num_differences:
            changes.append(f"the GPT and the RMM's books differ on {count} granules")
        looked_at = f"{len(memory) >> 20} MiB of Non-secure memory and {self._num_results} results"
        return Proof(tuple(self._leaks), tuple(changes), looked_at if self._secrets else "")

    def _picture(self) -> GptPicture:
        return Observer(
            self._machine, self._gpt, self._rmm, still=nullcontext, contexts=lambda: ()
        ).gpt()

    def count_realm_granules(self) -> int:
        """Return the number of granules in the Realm PAS."""
        return self._picture().granules[Gpi.REALM.name]

    def count_realms(self) -> int:
        """Return the number of realms that exist."""
        return len(self._rmm.realms)

    def _changes(self, secret: Secret) -> list[str]:
        realm = self._rmm.realms.get(secret.rd)
        if realm is None:
            return []  # destroyed as a whole: a realm that is gone is not deceived
        changes = []
        if realm.measurements.values[0] != secret.rim:
            changes.append("the realm's initial measurement changed")
        rec = self._rmm.recs.get(secret.rec)
        if rec is not None and tuple(rec.context.x[n] for n in _SECRET_REGISTERS) != secret.words:
            changes.append("the realm's registers changed")
        table, index, level = realm.rtt.walk(code.SECRET, PAGE_LEVEL)
        entry = table.entries[index]
        if level == PAGE_LEVEL and entry & VALID:
            pa = entry & ADDRESS_MASK & ~GRANULE_OFFSET
            memory = self._machine.buffer(Pas.REALM)
            offset = pa - self._machine.dram_base
            if bytes(memory[offset : offset + 16]) != b"".join(secret.parts):
                changes.append("the realm's page has another content")
        elif ripas_of(entry) != Ripas.DESTROYED:
            changes.append(f"the realm's page is {Ripas(ripas_of(entry)).name} without its consent")
        return changes
