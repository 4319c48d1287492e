"""An instance with a scripted guest and a real agent, which runs on this machine."""

import socket
import subprocess
from pathlib import Path

from pyvmm.vm.control.directory import Directory
from tests.vm.agent_program import SocketPort
from tests.vm.served import Served

PATIENCE = 30.0


class Running(Served):
    """An instance that runs or will run; `port.start` connects its agent."""

    def __init__(self, directory: Directory, program: Path, *, is_started: bool = True) -> None:
        super().__init__(directory)
        if is_started:
            self.owner.lifecycle.start()
        self.ours, theirs = socket.socketpair()
        instance = self.owner.lifecycle._instance
        assert instance is not None
        self.port = SocketPort(instance.agent, self.ours)
        with theirs:
            self.agent = subprocess.Popen([program, "exec", "0"], stdin=theirs.fileno())

    def close(self) -> None:
        """End what there is."""
        super().close()
        self.ours.shutdown(socket.SHUT_RDWR)
        self.port.join()
        self.ours.close()
        self.agent.wait(PATIENCE)
