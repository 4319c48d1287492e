"""The server: one loop over the listening socket and the mailboxes of the machines.

Each connection is the power cycle of a machine.  After the last connection has closed, the process
removes its address and ends; a client that connects at that moment reads the end of the stream, and
starts another HES.
"""

import os
import resource
import selectors
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Final

from hes.errors import PsaError
from hes.hes import Hes
from hes.mailbox import Call, answer
from hes.power_cycle import PowerCycle
from hes.services import Outputs, serve
from pyvmm.arch.psa import MAX_MESSAGE, PsaStatus
from pyvmm.arch.text import defect

_MAX_CLIENTS: Final = 256
_RETRY_INTERVAL: Final = 0.01  # seconds until another attempt to accept a waiting client
_OWN_FILES: Final = 32  # descriptors reserved for the HES itself
_SIZE: Final = struct.Struct("<I")
_UCRED: Final = struct.Struct("3i")  # pid, uid, gid


class Connection:
    """One mailbox: the received part of a request, and the unsent part of a reply."""

    def __init__(self, stream: socket.socket, cycle: PowerCycle, hes: Hes) -> None:
        stream.setblocking(False)
        self.stream = stream
        self.cycle = cycle
        self._hes = hes
        self._received = bytearray()
        self._unsent = bytearray()

    @property
    def interest(self) -> int:
        """The events to wait for; no request is read before the reply is sent."""
        return selectors.EVENT_WRITE if self._unsent else selectors.EVENT_READ

    def transfer(self) -> bool:
        """Receive or send without waiting; return False at the end of the connection.

        At most one message at a time, so that no client delays the others.
        """
        try:
            if not self._unsent and not self._receive():
                return False
            if self._unsent:
                del self._unsent[: self.stream.send(self._unsent)]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def _receive(self) -> bool:
        """Receive bytes; when the message is complete, prepare its reply."""
        data = self.stream.recv(self._missing())
        self._received += data
        missing = self._missing()
        if not missing:
            reply = answer(bytes(self._received[_SIZE.size :]), self._call)
            self._unsent += _SIZE.pack(len(reply)) + reply
            self._received.clear()
        return bool(data) and missing <= MAX_MESSAGE

    def _missing(self) -> int:
        """Return how many bytes are missing, first of the size, then of the message."""
        have = len(self._received)
        if have < _SIZE.size:
            return _SIZE.size - have
        size: int = _SIZE.unpack_from(self._received)[0]
        return _SIZE.size + size - have

    def _call(self, call: Call) -> Outputs:
        """Perform a call; a bug of ours fails that call only, not the other machines."""
        try:
            return serve(self._hes, self.cycle, call)
        except PsaError:
            raise
        except Exception:  # noqa: BLE001
            sys.stderr.write(f"{defect()}\n")
            raise PsaError(PsaStatus.GENERIC_ERROR) from None


class Server:
    """Serves until the last client has gone."""

    def __init__(self, hes: Hes, listener: socket.socket, address: Path) -> None:
        self._hes = hes
        self._listener = listener
        self._address = address
        self._inode = _inode(address)
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        max_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_clients = max(1, min(_MAX_CLIENTS, max_files - _OWN_FILES))
        self._listen(True)

    def _listen(self, wanted: bool) -> None:
        if wanted:
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ)
        else:
            self._selector.unregister(self._listener)

    def add(self, stream: socket.socket) -> None:
        """Accept a connection if it comes from the same user."""
        pid, uid, _ = _UCRED.unpack(
            stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        if uid != os.getuid():
            stream.close()
            return
        connection = Connection(stream, self._hes.connect(pid), self._hes)
        self._connections.add(connection)
        self._selector.register(stream, selectors.EVENT_READ, connection)
        if len(self._connections) == self._max_clients:
            self._listen(False)

    def _remove(self, connection: Connection) -> None:
        if len(self._connections) == self._max_clients:
            self._listen(True)
        self._connections.remove(connection)
        self._selector.unregister(connection.stream)
        self._hes.disconnect(connection.cycle)
        connection.stream.close()

    def run(self) -> None:
        """Serve until the last connection has gone."""
        while self._connections or self._accept():
            for key, _ in self._selector.select():
                if key.data is None:
                    self._accept()
                    continue
                connection: Connection = key.data
                if not connection.transfer():
                    self._remove(connection)
                else:
                    self._selector.modify(connection.stream, connection.interest, connection)
        self._shut_down()

    def _accept(self) -> bool:
        """Accept a waiting client; return False if no client is left."""
        try:
            self.add(self._listener.accept()[0])
        except BlockingIOError:
            pass
        except OSError:  # out of descriptors: the client waits
            time.sleep(_RETRY_INTERVAL)
        return bool(self._connections)

    def _shut_down(self) -> None:
        # In this order: as long as the address exists, a HES answers.  If the address belongs to
        # another HES now, the user has removed this one's.
        if _inode(self._address) == self._inode:
            self._address.unlink(missing_ok=True)
        self._selector.close()
        self._listener.close()


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
