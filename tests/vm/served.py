"""An instance with an API server and a scripted guest."""

import socket
from contextlib import ExitStack

from pyvmm.vm.control.api import State
from pyvmm.vm.control.client import Client, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.control.server import Server
from tests.vm.stage import OwnerThread


class Served:
    """A new instance with its server; a client's time-out fails the test."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.owner = OwnerThread()
        self._stack = ExitStack()
        self._stack.enter_context(self.owner)
        self.owner.until(State.NEW)
        self.claim = directory.claim(self.owner.lifecycle.status)
        self.server = Server(self.claim.listener, self.owner.lifecycle)
        self.server.start()

    def client(self) -> Client:
        """Connect."""
        client = self._stack.enter_context(connect(self.directory, "r1"))
        client.patience = 10
        return client

    def raw(self) -> socket.socket:
        """Connect without a client."""
        connection = self._stack.enter_context(self.directory.connect("r1", 10))
        connection.settimeout(10)
        return connection

    def end(self) -> None:
        """End the instance, then its server, as its owner does."""
        self.owner.lifecycle.quit()
        self.owner.end()
        self.server.close()

    def close(self) -> None:
        """End what there is."""
        self.end()
        self._stack.close()
        self.claim.listener.close()
