"""pyvmm hes: its output, and one line for each mistake."""

import json
import resource
import sys
from pathlib import Path

import pytest

from pyvmm.cli import main
from pyvmm.root_of_trust import RootOfTrust


class Cli:
    """pyvmm hes on a separate directory."""

    def __init__(
        self,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.directory = directory
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command of it; return exit code, output and errors."""
        argv = ["pyvmm", "hes", "--hes-dir", str(self.directory), *arguments]
        self._monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            main()
        output, errors = self._capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, output, errors


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The commands, on a HES that has not been used yet."""
    return Cli(tmp_path / "hes", monkeypatch, capsys)


def makers(cli: Cli) -> dict[str, str]:
    """Create bundles; return their paths by name."""
    code, output, _ = cli("provision", "--make", str(cli.directory.parent / "makers"))
    assert code == 0
    return {Path(line).name: line for line in output.splitlines()}


def test_life_of_a_platform(cli: Cli) -> None:
    """From the chip maker to the end, as a user controls and sees it."""
    assert cli("lifecycle")[1] == "assembly-and-test\n-> decommissioned\n"
    assert "none: not provisioned" in cli("status")[1]
    paths = makers(cli)
    assert list(paths) == ["cm-key.pem", "dm-key.pem", "cm.bundle", "dm.bundle"]
    assert all(Path(path).stat().st_mode & 0o777 == 0o600 for path in paths.values())
    code, output, errors = cli("provision", paths["cm.bundle"], paths["dm.bundle"])
    assert (code, errors) == (0, "")
    states = [line.rpartition(": ")[2] for line in output.splitlines()]
    assert states == ["cca-platform-rot-provisioning", "secured"]
    status = cli("status")[1]
    assert str(cli.directory) in status
    assert "none running" in status
    assert cli("lifecycle", "recoverable-cca-platform-rot-debug")[0] == 0
    assert cli("lifecycle")[1].splitlines()[0] == "recoverable-cca-platform-rot-debug"
    assert json.loads(cli("lifecycle", "--json")[1])["successors"] == ["decommissioned", "secured"]
    code, output, _ = cli("lifecycle", "decommissioned", "--yes", "--json")
    assert (code, json.loads(output)) == (0, {"lifecycle": "decommissioned", "successors": []})
    assert cli("lifecycle")[1] == "decommissioned\n"


def test_status_for_programs(cli: Cli) -> None:
    """The complete status; machines are identified by their process."""
    with RootOfTrust(cli.directory) as machine:
        machine.power_on()
        status = json.loads(cli("status", "--json")[1])
    assert status["lifecycle"] == "secured"
    assert status["directory"] == str(cli.directory)
    assert len(bytes.fromhex(status["instance_id"])) == 33
    assert len(bytes.fromhex(status["cpak"])) == 97
    assert len(status["machines"]) == 1
    assert status["counters"] == {"firmware": 1, "cm-bundle": 1, "dm-bundle": 1}


def test_provisioning_for_programs(cli: Cli) -> None:
    """Paths, and the state after each bundle."""
    directory = str(cli.directory.parent / "makers")
    made = json.loads(cli("provision", "--make", directory, "--json")[1])
    assert [Path(path).name for path in made] == [
        "cm-key.pem",
        "dm-key.pem",
        "cm.bundle",
        "dm.bundle",
    ]
    code, output, errors = cli("provision", *made[2:], "--json")
    assert (code, errors) == (0, "")
    assert list(json.loads(output).items())[1] == (made[3], "secured")


def test_log_shows_each_measurement(cli: Cli) -> None:
    """Slot, type and signer; the first use is reported."""
    code, output, errors = cli("log")
    assert (code, errors) == (
        0,
        f"pyvmm: made a random development identity in {cli.directory}\n",
    )
    heads = [line for line in output.splitlines() if line.startswith("slot")]
    assert [head.split()[1:3] for head in heads] == [
        ["0", "RT_0"],
        ["5", "SYS_CTRL_2"],
        ["11", "SECURE_RT_EL3"],
        ["12", "HW_CONFIG"],
        ["14", "RMM"],
    ]
    events = json.loads(cli("log", "--json")[1])
    assert all(event["value"] in output for event in events)


def test_counters_are_advanced_and_shown(cli: Cli) -> None:
    """As text and as JSON."""
    assert cli("counters")[1].split() == ["firmware", "0", "cm-bundle", "0", "dm-bundle", "0"]
    code, output, _ = cli("counters", "firmware=3", "dm-bundle=2", "--json")
    assert code == 0
    assert json.loads(output) == {"firmware": 3, "cm-bundle": 0, "dm-bundle": 2}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("lifecycle decommissioned", "decommissioning is permanent and erases the keys: confirm"),
        ("lifecycle nowhere", "'nowhere' is not a lifecycle state: pyvmm hes lifecycle"),
        ("lifecycle secured", "secured cannot follow assembly-and-test"),
        ("counters firmware", "firmware: give NAME=VALUE, with a value of at most 4294967295"),
        ("counters firmware=4294967296", "firmware=4294967296: give NAME=VALUE"),
        ("counters none=1", "unknown counter none: give firmware, cm-bundle, dm-bundle"),
        ("provision", "no bundle given: give BUNDLES, or --make DIRECTORY"),
        ("provision /nonexistent", "bundle /nonexistent: No such file or directory"),
        ("provision --make /proc/x", "/proc/x: No such file or directory: choose another"),
        ("log 1", "process 1 has no running machine: pyvmm hes status lists all"),
        ("log x", "'x' is not a valid integer range"),
    ],
)
def test_mistake_is_one_line(cli: Cli, arguments: str, complaint: str) -> None:
    """And exit code 2."""
    code, output, errors = cli(*arguments.split())
    assert (code, output) == (2, "")
    assert errors.startswith("pyvmm: ")
    assert complaint in errors
    assert errors.count("\n") == 1


def test_counter_does_not_go_back(cli: Cli) -> None:
    """Not even on request."""
    assert cli("counters", "firmware=3")[0] == 0
    code, _, errors = cli("counters", "firmware=2")
    assert (code, errors) == (2, "pyvmm: counter firmware is at 3 and cannot decrease\n")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"no bundle", "pyvmm: {}: invalid bundle: "),
        (bytes(5000), "pyvmm: bundle {} is larger than 4096 bytes: give a smaller one"),
    ],
)
def test_what_is_no_bundle_is_refused(
    cli: Cli, tmp_path: Path, content: bytes, complaint: str
) -> None:
    """And changes nothing."""
    path = tmp_path / "bundle"
    path.write_bytes(content)
    code, _, errors = cli("provision", str(path))
    assert code == 2
    assert errors.startswith(complaint.format(path))
    assert cli("lifecycle")[1].startswith("assembly-and-test")


def test_makers_files_are_not_overwritten(cli: Cli) -> None:
    """A key cannot be generated again."""
    makers(cli)
    code, _, errors = cli("provision", "--make", str(cli.directory.parent / "makers"))
    assert code == 2
    assert "cm-key.pem: File exists: choose another directory" in errors


def test_makers_files_are_there_or_not(cli: Cli) -> None:
    """If one file does not fit on the disk, none remains."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (330, limits[1])
    )  # both keys have less, a bundle more
    makers = cli.directory.parent / "makers"
    try:
        code, output, errors = cli("provision", "--make", str(makers))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = f"pyvmm: {makers}: File too large: choose another directory\n"
    assert (code, output, errors) == (2, "", line)
    assert list(makers.iterdir()) == []
