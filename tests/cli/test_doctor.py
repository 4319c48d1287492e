"""The findings of `pyvmm doctor`, on a complete machine and on an incomplete one."""

import json
from pathlib import Path

import pytest

from pyvmm.arch.confine import landlock
from pyvmm.vm.exit_code import ExitCode
from tests.cli.inside import verb


def look() -> dict[str, tuple[str, str]]:
    """Return verdict and advice for each requirement."""
    ended = verb("doctor", "--json")
    assert ended.errors == ""
    found = json.loads(ended.output)
    is_missing = any(each["verdict"] == "missing" for each in found)
    assert ended.code == (ExitCode.BAD_INPUT if is_missing else ExitCode.OK)
    return {each["what"]: (each["verdict"], each["advice"]) for each in found}


def test_what_guests_need_is_here() -> None:
    """Otherwise no other test would have passed."""
    found = look()
    for what in ("Python", "C core", "runtime directory", "sandbox"):
        assert found[what] == ("ok", "")
    assert {verdict for verdict, _ in found.values()} <= {"ok", "optional"}


def test_a_tool_that_is_missing_has_its_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is optional, because not every guest needs it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("pyvmm.cli.doctor._SBIN", str(tmp_path))
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    found = look()
    for what in ("C compiler", "user network", "apt", "e2fsprogs"):
        verdict, advice = found[what]
        assert verdict == "optional"
        assert "install" in advice
        assert "only" in advice


def test_a_sandbox_with_holes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests run without it; --sandbox strict would refuse."""
    monkeypatch.setattr(landlock, "version", lambda: 0)
    verdict, advice = look()["sandbox"]
    assert verdict == "optional"
    assert "confined in part" in advice


def test_no_place_for_instances_is_a_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line with the remedy."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    verdict, advice = look()["runtime directory"]
    assert verdict == "missing"
    assert "XDG_RUNTIME_DIR" in advice
    assert "-> set XDG_RUNTIME_DIR" in verb("doctor").output
    assert verb("list").code == ExitCode.BAD_INPUT


def test_a_full_or_foreign_root_of_trust_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its directory need not exist yet, but it must be possible to create it."""
    monkeypatch.setenv("PYVMM_HES_DIR", str(tmp_path / "none" / "hes"))
    assert look()["root of trust"][0] == "ok"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYVMM_HES_DIR", str(tmp_path / "file" / "hes"))
    assert look()["root of trust"][0] == "optional"


@pytest.mark.parametrize(
    ("kilobytes", "verdict", "shown"),
    [(21 << 20, "ok", "21.0 GiB"), (256 << 10, "optional", "0.2 GiB")],
)
def test_memory_is_what_can_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kilobytes: int, verdict: str, shown: str
) -> None:
    """It includes caches that can be dropped, not only free memory."""
    (tmp_path / "meminfo").write_text(
        f"MemTotal: {32 << 20} kB\nMemFree: 1024 kB\nMemAvailable: {kilobytes} kB\n"
    )
    monkeypatch.setattr("pyvmm.cli.doctor._MEMINFO", str(tmp_path / "meminfo"))
    assert look()["memory"][0] == verdict
    assert f"{shown} available" in verb("doctor").output
