"""The debugger's ``monitor`` commands, for what the protocol has no command for."""

from collections.abc import Callable
from typing import Final

from pyvmm.host.debug import DebugPort
from pyvmm.host.registers import PC, exception_level
from pyvmm.vm.options import VmOptions

_HELP: Final = """\
help   print this text
info   show the guest and its CPUs
quit   end the guest at once, as by a power failure
"""


class Monitor:
    """Answers a guest's debugger."""

    def __init__(self, options: VmOptions, port: DebugPort, kill: Callable[[], None]) -> None:
        self._options = options
        self._port = port
        self.kill = kill

    def monitor(self, command: str) -> str:
        """Execute one command; return lines of text."""
        match command.split():
            case [] | ["help"]:
                return _HELP
            case ["info"]:
                return self._info()
            case ["quit"]:
                self.kill()
                return ""
            case _:
                return "unknown command: try monitor help\n"

    def _info(self) -> str:
        options = self._options
        kind = "realm" if options.realm else "normal VM"
        lines = [f"{options.name}: {kind}, {options.ram_size >> 20} MiB"]
        lines += [self._cpu(cpu) for cpu in range(self._port.num_cpus)]
        return "\n".join(lines) + "\n"

    def _cpu(self, cpu: int) -> str:
        if not self._port.is_on(cpu):
            return f"CPU {cpu}: off"
        registers = self._port.registers(cpu)
        return f"CPU {cpu}: EL{exception_level(registers)}, pc {PC.get(registers):#018x}"
