"""Software at EL2 of the machine: a bare program, and Debian's kernel with VHE."""

import subprocess
from pathlib import Path

import pytest

from pyvmm.vm.images.cpio import CpioArchive
from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, pyvmm
from tests.core.program import assemble
from tests.userland.build import COMPILE

HELLO = """
    mov x1, #0x09000000
    mrs x3, CurrentEL
    lsr x3, x3, #2
    add x3, x3, #0x30
    strb w3, [x1]
    mov x3, #10
    strb w3, [x1]
    mov x0, #8
    movk x0, #0x8400, lsl #16
    smc #0
"""


@pytest.mark.boot
@pytest.mark.parametrize("level", ["1", "2"])
def test_a_bare_program_prints_its_level_and_powers_off(tmp_path: Path, level: str) -> None:
    """A flat binary; PSCI by SMC."""
    kernel = tmp_path / "hello.bin"
    kernel.write_bytes(assemble(HELLO))
    done = pyvmm("boot", "-k", kernel, *(["--el1"] if level == "1" else []))
    assert (done.code, done.output, done.errors) == (0, f"{level}\n", "")


RMI_VERSION = """
    movz x0, #0xC400, lsl #16
    movk x0, #0x0150
    mov x1, #0x10000
    smc #0
    mov x9, #0x09000000
    add w3, w0, #0x30
    strb w3, [x9]
    lsr w3, w1, #16
    add w3, w3, #0x30
    strb w3, [x9]
    mov x0, #8
    movk x0, #0x8400, lsl #16
    smc #0
"""


@pytest.mark.boot
def test_a_bare_program_calls_the_rmm(tmp_path: Path) -> None:
    """RMI_VERSION with 1.0: success, and 1."""
    kernel = tmp_path / "rmi.bin"
    kernel.write_bytes(assemble(RMI_VERSION))
    done = pyvmm("boot", "-k", kernel)
    assert (done.code, done.output) == (0, "01")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--el1", "--el2"), "--el2 excludes --el1: give one"),
        (("--el2", "--realm"), "--el2 excludes --realm: omit one"),
        (("--el2", "--force-pci"), "--el2 with PCI requires its place in the machine"),
    ],
)
def test_what_the_owner_of_the_machine_cannot_have(options: tuple[str, ...], error: str) -> None:
    """One line, exit code 2."""
    done = pyvmm("run", *options)
    assert (done.code, done.output) == (2, "")
    assert error in done.errors


VMM = Path(__file__).parent / "programs/kvm.c"


@pytest.fixture(scope="module")
def initrd(debian: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return Debian's initial RAM disk with a small VMM in it."""
    directory = tmp_path_factory.mktemp("kvm")
    subprocess.run([*COMPILE, VMM, "-o", directory / "kvm"], check=True)
    archive = CpioArchive()
    archive.add_file("kvm", (directory / "kvm").read_bytes(), 0o755)
    base = debian.initrd.read_bytes()
    result = directory / "initrd.img"
    result.write_bytes(base + bytes(-len(base) % 512) + archive.finish())
    return result


@pytest.mark.boot
def test_debian_starts_at_el2_with_kvm(debian: Image, initrd: Path) -> None:
    """Two CPUs, by PSCI; VHE; and a guest of its KVM, whose stores to a device are emulated."""
    options = ("--kernel", debian.kernel, "--initrd", initrd, "-c", "2")
    with Running("boot", *options) as guest:
        guest.shell.log_in()
        messages = guest.shell.run("dmesg").output
        assert "CPU: All CPU(s) started at EL2" in messages
        assert "VHE mode initialized successfully" in messages
        assert "Brought up 1 node, 2 CPUs" in messages
        assert "SMCCC: SOC_ID: ID = jep106:0000:0c0a Revision = 0x00000000" in messages
        assert guest.shell.run("/kvm").output.split() == [
            "10000000:",
            "60000",
            "10000000:",
            "4",
            "off",
        ]
        guest.shell.type("poweroff -f\n")
        assert guest.wait() == 0
