"""Guests of a Python program: their life, their console, what goes wrong."""

import asyncio
from pathlib import Path

import pytest

import pyvmm
from pyvmm.scripting import aio
from pyvmm.vm.control.api import State
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode
from tests.cli.kernels import IDLE, kernel

pytestmark = pytest.mark.usefixtures("runtime")


def test_a_realm_lives_as_long_as_its_block() -> None:
    """It is built, measured, started and removed; its console and its exit code are there."""
    with pyvmm.realm(mem="64M", no_hes=True) as guest:
        assert guest.expect(r"IPA width +(\d+) bits", timeout=60)[1] == "33"
        assert guest.wait(timeout=60) == ExitCode.OK
        assert guest.console().startswith("Hello from a realm.")
        assert len(guest.rim) == 32
        assert guest.status.kind == "realm"
    assert Directory.of_user().statuses() == []


def test_a_normal_vm_is_paused_resumed_and_stopped(tmp_path: Path) -> None:
    """Each call from a fresh connection; statistics count its instructions."""
    with pyvmm.normal_vm(kernel(tmp_path, IDLE), mem="64M", name="v1") as guest:
        assert repr(guest) == "<pyvmm guest v1>"
        guest.pause()
        assert guest.status.state == State.PAUSED
        guest.resume()
        with pytest.raises(pyvmm.Failure, match="did not show 'never' within") as failure:
            guest.expect("never", timeout=0.1)
        assert failure.value.code == ExitCode.TIMEOUT
        with pytest.raises(pyvmm.Failure):
            guest.wait(timeout=0.1)
        assert guest.statistics().vcpus[0].instructions
        with pytest.raises(pyvmm.UserError, match="no port for an agent"):
            guest.exec(["true"])
        assert pyvmm.attach("v1").status.state == State.RUNNING
        guest.stop()
        assert guest.wait() == ExitCode.QUIT
        with pytest.raises(pyvmm.Failure, match="ended before its console showed") as failure:
            pyvmm.attach("v1").expect("never")


def test_console_of_a_guest_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ran when it was looked for, and had ended before the connection."""
    with pyvmm.realm(mem="64M", no_hes=True) as guest:
        assert guest.wait(timeout=60) == ExitCode.OK
        kept = Directory.console_log
        for read in (guest.console, lambda: guest.expect("Hello").string):
            looks = iter((True, False, False))
            monkeypatch.setattr(
                Directory,
                "console_log",
                lambda place, name, looks=looks: None if next(looks) else kept(place, name),
            )
            assert read().startswith("Hello from a realm.")


def test_nothing_is_left_of_a_guest_whose_block_raises() -> None:
    """As little as of one that cannot be created."""
    with pytest.raises(ZeroDivisionError), pyvmm.realm(mem="64M", no_hes=True):
        raise ZeroDivisionError
    with pytest.raises(pyvmm.UserError, match="no_kernel_here"), pyvmm.realm("no_kernel_here"):
        pass
    with pytest.raises(pyvmm.UserError, match="name"), pyvmm.realm(name="a/b", no_hes=True):
        pass
    assert Directory.of_user().statuses() == []


def test_a_challenge_has_a_size() -> None:
    """Checked before the guest is asked."""
    for challenge in (b"", bytes(65)):
        with pytest.raises(pyvmm.UserError, match="a challenge has 1 to 64 bytes"):
            pyvmm.attach("nobody").attest(challenge)


def test_unknown_names_are_attribute_errors() -> None:
    """As in any module."""
    with pytest.raises(AttributeError, match="has no attribute 'unknown'"):
        pyvmm.unknown  # type: ignore[attr-defined]  # noqa: B018


def test_two_guests_at_once_in_asyncio() -> None:
    """Both run while both are awaited."""

    async def life(name: str) -> tuple[int, str]:
        async with aio.realm(name=name, mem="64M", no_hes=True) as guest:
            code = await guest.wait(timeout=120)
            return code, await guest.console()

    async def both() -> tuple[tuple[int, str], tuple[int, str]]:
        return await asyncio.gather(life("a1"), life("a2"))

    for code, text in asyncio.run(both()):
        assert code == ExitCode.OK
        assert "Hello from a realm." in text
