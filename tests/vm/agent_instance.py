"""An instance whose guest is played, and whose agent is real and runs on this machine."""

import socket
import subprocess
from pathlib import Path

from pyvmm.vm.api import State
from pyvmm.vm.directory import Directory
from pyvmm.vm.server import Server
from tests.vm.agent_program import SocketPort
from tests.vm.stage import Living

PATIENCE = 30.0


class Running:
    """An instance that runs, with its server, and an agent on this machine."""

    def __init__(self, directory: Directory, program: Path) -> None:
        self.directory = directory
        self.living = Living()
        self.living.__enter__()
        self.living.until(State.NEW)
        claim = directory.claim(self.living.lifecycle.status)
        self.listener = claim.listener
        self.server = Server(self.listener, self.living.lifecycle)
        self.server.start()
        self.living.lifecycle.start()
        self.ours, theirs = socket.socketpair()
        self.port = SocketPort(self.living.lifecycle.agent, self.ours)
        with theirs:
            self.agent = subprocess.Popen([program, "exec", "0"], stdin=theirs.fileno())

    def end(self) -> None:
        """End the guest, then its server, as its owner does."""
        self.living.lifecycle.quit()
        self.living.end()
        self.server.close()

    def close(self) -> None:
        """End what there is."""
        self.end()
        self.living.stage.close()
        self.ours.shutdown(socket.SHUT_RDWR)
        self.port.join()
        self.ours.close()
        self.listener.close()
        self.agent.wait(PATIENCE)
