"""Software at EL2 of the machine: a bare program, and Debian's kernel with VHE."""

from pathlib import Path

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, guest_options, pyvmm
from tests.core.program import assemble

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


@pytest.mark.boot
def test_debian_starts_at_el2_with_kvm(debian: Image) -> None:
    """Two CPUs, by PSCI; VHE; KVM; interrupts of timers, of the console and between the CPUs."""
    options = guest_options(debian, None)
    with Running("boot", *options, "-c", "2") as guest:
        guest.shell.log_in()
        messages = guest.shell.run("dmesg").output
        assert "CPU: All CPU(s) started at EL2" in messages
        assert "VHE mode initialized successfully" in messages
        assert (
            "SMP: Total of 2 processors activated" in messages
            or "smp: Brought up 1 node, 2 CPUs" in messages
        )
        assert guest.shell.run("ls /dev/kvm").output == "/dev/kvm"
        guest.shell.type("poweroff -f\n")
        assert guest.wait() == 0
