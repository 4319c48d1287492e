"""Guest memory for devices: all RAM of a normal VM, the shared pages of a realm.

A refused access raises ``GranuleProtectionFault`` with the guest's address and transfers nothing.
"""

from collections import deque
from collections.abc import Callable
from threading import Lock

from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SHIFT, GranuleProtectionFault, Pas


class Transfers:
    """Transfers of devices that are under way, and what must wait for them.

    A device checks its access to a page once and then transfers data for a while.  So when a page
    changes its owner, its memory may only be given to somebody else ``after`` the transfers that
    began before the change.  Any thread may call.
    """

    __slots__ = ("_lock", "_next", "_running", "_waiting")

    def __init__(self) -> None:
        self._lock = Lock()
        self._next = 0
        self._running: dict[int, None] = {}  # by age
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def begin(self) -> int:
        """Begin a transfer: before its access is checked."""
        with self._lock:
            self._next += 1
            self._running[self._next] = None
            return self._next

    def end(self, transfer: int) -> None:
        """End a transfer: it accesses no memory any more."""
        ready: list[Callable[[], None]] = []
        with self._lock:
            del self._running[transfer]
            oldest = next(iter(self._running), self._next + 1)
            while self._waiting and self._waiting[0][0] < oldest:
                ready.append(self._waiting.popleft()[1])
        for action in ready:
            action()

    def after(self, action: Callable[[], None]) -> None:
        """Call ``action`` when all transfers that have begun have ended: now, if there is none."""
        with self._lock:
            if self._running:
                self._waiting.append((self._next, action))
                return
        action()


class LinearMemory:
    """RAM that is one contiguous range of Non-secure memory."""

    __slots__ = ("_base", "_memory", "_pa", "_size", "transfers")

    def __init__(self, memory: PhysicalMemory, ram_base: int, ram_size: int, pa: int) -> None:
        self.transfers = Transfers()
        self._memory = memory
        self._base = ram_base
        self._size = ram_size
        self._pa = pa

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy of the bytes."""
        return self._memory.read(self._translate(addr, size), size)

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store the bytes."""
        self._memory.write(self._translate(addr, len(data)), data)

    def view(self, addr: int, size: int) -> memoryview:
        """Return a writable window."""
        offset = addr - self._base
        if not 0 <= offset <= self._size - size or size < 0:
            raise GranuleProtectionFault(addr, Pas.NS)
        return self._memory.view(self._pa + offset, size)

    def shared_size(self) -> int:
        """Return the size of the RAM."""
        return self._size

    def begin_transfer(self) -> int:
        """Keep the views made from now on valid until the end of the transfer."""
        return self.transfers.begin()

    def end_transfer(self, transfer: int) -> None:
        """End a transfer."""
        self.transfers.end(transfer)

    def _translate(self, addr: int, size: int) -> int:
        """Return the physical address, if the device may access the whole range."""
        offset = addr - self._base
        if not 0 <= offset <= self._size - size or size < 0:
            raise GranuleProtectionFault(addr, Pas.NS)
        self._check(addr, offset, size)
        return self._pa + offset

    def _check(self, addr: int, offset: int, size: int) -> None:
        """Refuse RAM that is not for devices; here nothing."""


class SharedMemory(LinearMemory):
    """A realm's RAM as its devices see it: only shared pages, by either address.

    A shared page at IPA ram_base + n has the physical address pa + n; so shared pages that are
    adjacent for the realm are adjacent here, and one window contains them.
    """

    __slots__ = ("_alias", "is_shared")

    def __init__(
        self, memory: PhysicalMemory, ram_base: int, ram_size: int, pa: int, alias: int
    ) -> None:
        """``alias`` is the address bit of the unprotected half."""
        super().__init__(memory, ram_base, ram_size, pa)
        self._alias = alias
        self.is_shared = bytearray(ram_size >> GRANULE_SHIFT)  # 1 for a shared page

    def shared_size(self) -> int:
        """Return the size of the shared pages."""
        return self.is_shared.count(1) << GRANULE_SHIFT

    def view(self, addr: int, size: int) -> memoryview:
        """Return a writable window."""
        return self._memory.view(self._translate(addr, size), size)

    def _translate(self, addr: int, size: int) -> int:
        return super()._translate(addr & ~self._alias, size)

    def _check(self, addr: int, offset: int, size: int) -> None:
        first = offset >> GRANULE_SHIFT
        end = (offset + size - 1 >> GRANULE_SHIFT) + 1
        private = self.is_shared.find(0, first, end)
        if private >= 0:
            raise GranuleProtectionFault(max(addr, self._base + (private << GRANULE_SHIFT)), Pas.NS)
