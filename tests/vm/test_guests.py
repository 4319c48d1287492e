"""The built-in guest: assembled from its source, and printing the right text."""

import re
from pathlib import Path

import keystone
import unicorn
from unicorn import arm64_const as arm64

from pyvmm.vm import guests, memory_map
from pyvmm.vm.images.loader import FLAT_OFFSET
from pyvmm.vm.memory_map import MIB, RAM_BASE

ENTRY = RAM_BASE + FLAT_OFFSET
X0 = arm64.UC_ARM64_REG_X0
MINUS_ONE = (1 << 64) - 1


def test_bytes_are_those_of_the_source() -> None:
    """hello.bin is current: it must be assembled again after a change of hello.S."""
    source = (Path(guests.__file__).parent / "hello.S").read_text()
    assembler = keystone.Ks(keystone.KS_ARCH_ARM64, keystone.KS_MODE_LITTLE_ENDIAN)
    code, _ = assembler.asm(re.sub(r"//.*", "", source), ENTRY)
    assert bytes(code) == guests.hello()


class Rmm:
    """Runs the guest on Unicorn; answers its SMCs like an RMM, or rejects them."""

    def __init__(self, *, is_realm: bool, hash_algo: int = 0) -> None:
        self._is_realm = is_realm
        self._hash_algo = hash_algo
        self._cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._cpu.mem_map(RAM_BASE, MIB)
        self._cpu.mem_write(ENTRY, guests.hello())
        uart = memory_map.UART_BASE | (1 << 32 if is_realm else 0)
        self._cpu.mmio_map(uart, 0x1000, None, None, self._transmit, None)
        self._cpu.hook_add(unicorn.UC_HOOK_INTR, self._call)
        self.output = b""
        self.is_off = False

    def run(self) -> str:
        """Run to the end and return what was printed."""
        self._cpu.emu_start(ENTRY, 0, count=100_000)
        return self.output.decode()

    def _transmit(self, _cpu: object, _offset: int, _size: int, value: int, _data: object) -> None:
        self.output += bytes((value,))

    def _call(self, cpu: unicorn.Uc, _kind: int, _data: object) -> None:
        fid, argument = cpu.reg_read(X0), cpu.reg_read(X0 + 1)
        results: tuple[int, ...] = (MINUS_ONE,)
        if fid == 0x8400_0008:
            self.is_off = True
            cpu.emu_stop()
        elif self._is_realm and fid == 0xC400_0190 and argument == 0x1_0000:
            results = (0, 0x1_0000)
        elif self._is_realm and fid == 0xC400_0196:
            cpu.mem_write(argument, (33).to_bytes(8, "little") + bytes((self._hash_algo,)))
            results = (0,)
        elif self._is_realm and fid == 0xC400_0192:
            results = (0, *(0x0123_4567_89AB_CD00 | argument for _ in range(8)))
        for number, value in enumerate(results):
            cpu.reg_write(X0 + number, value)


def test_it_says_what_rsi_tells_it() -> None:
    """It prints version, configuration and all measurements to the unprotected UART."""
    rmm = Rmm(is_realm=True)
    lines = rmm.run().split("\r\n")
    assert lines[:4] == [
        "Hello from a realm.",
        "RSI version     1.0",
        "IPA width       33 bits",
        "Measurements    SHA-256",
    ]
    assert lines[4] == "RIM             " + "00cdab8967452301" * 4
    assert lines[8] == "REM 3           " + "04cdab8967452301" * 4
    assert rmm.is_off


def test_its_measurements_are_as_long_as_their_hash() -> None:
    """SHA-512 has twice the digits."""
    assert (
        "\r\nRIM             " + "00cdab8967452301" * 8 + "\r\n"
        in Rmm(is_realm=True, hash_algo=1).run()
    )


def test_it_powers_off_a_normal_vm() -> None:
    """Without RSI it prints that in one line."""
    rmm = Rmm(is_realm=False)
    assert rmm.run().count("\r\n") == 1
    assert rmm.is_off
