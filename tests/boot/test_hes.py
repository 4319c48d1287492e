"""The root of trust as a user sees it: the boot is measured, and keys stay in their place."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hes import keys
from hes.client import HesError
from hes.image import installation
from hes.measured_boot import HASH_NAMES, HASHES, Slot
from hes.otp import OTP_FILE, Store
from pyvmm.arch.errors import UserError
from pyvmm.arch.psa import PsaHandle, PsaRequest
from pyvmm.arch.sysregs import Feature
from pyvmm.core import Clock
from pyvmm.platform import Platform, boot_images
from pyvmm.root_of_trust import DIRECTORY_VARIABLE, RootOfTrust
from pyvmm.token.cbor import Key, Tag, Value, decode
from pyvmm.token.claims import PlatformKey, SwComponentKey
from pyvmm.token.cose import Sign1
from pyvmm.token.generations import PLATFORM_TOKEN
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import Ended, Running, call, copy_disk, guest_options, pyvmm
from tests.boot.memory import found_in
from tests.hes.test_process import processes, wait_for_end

SLOTS = {0: "RT_0", 5: "SYS_CTRL_2", 11: "SECURE_RT_EL3", 12: "HW_CONFIG", 14: "RMM"}
HELLO = "Hello from a realm."
Log = list[dict[str, str | int | bool]]


def with_hes(directory: Path, *arguments: str) -> Ended:
    """Run pyvmm with a directory for its HES."""
    return pyvmm(*arguments, env={DIRECTORY_VARIABLE: str(directory)})


def boot_log(directory: Path, *arguments: str) -> Log:
    """Return an event log."""
    log: Log = json.loads(with_hes(directory, "hes", "log", "--json", *arguments).output)
    return log


def replayed(log: Log) -> dict[int, bytes]:
    """Return the values that follow from a log."""
    values: dict[int, bytes] = {}
    for event in log:
        digest = bytes.fromhex(str(event["digest"]))
        old = values.get(int(event["slot"]), bytes(len(digest)))
        function = hashlib.new(str(event["algorithm"]).replace("-", ""))
        function.update(old + digest)
        values[int(event["slot"])] = function.digest()
    return values


def platform_claims(token: bytes) -> dict[Key, Value]:
    """Return the platform claims of a token."""
    outer = decode(token)
    assert isinstance(outer, Tag)
    assert isinstance(outer.value, dict)
    part = outer.value[PLATFORM_TOKEN]
    assert isinstance(part, bytes)
    claims = decode(Sign1.parse(part).payload)
    assert isinstance(claims, dict)
    return claims


# --- a realm that attests ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a separate directory for a HES that may be killed."""
    return tmp_path_factory.mktemp("own") / "hes"


@pytest.fixture(scope="module")
def realm(
    debian: Image, own_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A Debian realm at its shell, on a HES of its own."""
    disk = copy_disk(debian, tmp_path_factory.mktemp("disk"))
    options = ["--realm", "--hes-dir", str(own_directory), *guest_options(debian, disk)]
    with Running("run", *options) as guest:
        guest.shell.log_in()
        yield guest


@pytest.fixture(scope="module")
def token(realm: Running) -> bytes:
    """A token from inside."""
    answer = realm.shell.run("attest")
    assert answer.status == 0, answer.output
    return base64.b64decode(answer.output)


@pytest.mark.boot
def test_log_of_the_machine_replays_to_its_token(
    realm: Running, token: bytes, own_directory: Path
) -> None:
    """Slot by slot: exactly one software component per measured part."""
    log = boot_log(own_directory, str(realm.pid))
    assert {int(event["slot"]): event["sw_type"] for event in log} == SLOTS
    assert all(event["is_locked"] for event in log)
    claims = platform_claims(token)
    components = claims[PlatformKey.SW_COMPONENTS]
    assert isinstance(components, list)
    values = replayed(log)
    said = [part[SwComponentKey.MEASUREMENT] for part in components if isinstance(part, dict)]
    assert said == [values[slot] for slot in sorted(values)]
    assert log == boot_log(own_directory)  # what a boot measures here now


@pytest.mark.boot
def test_status_knows_the_machine_and_its_identity(
    realm: Running, token: bytes, own_directory: Path
) -> None:
    """The same as in its token."""
    status = json.loads(with_hes(own_directory, "hes", "status", "--json").output)
    claims = platform_claims(token)
    instance_id = claims[PlatformKey.INSTANCE_ID]
    assert isinstance(instance_id, bytes)
    assert status["machines"] == [realm.pid]
    assert status["instance_id"] == instance_id.hex()
    assert (status["lifecycle"], claims[PlatformKey.LIFECYCLE]) == ("secured", 0x3000)


@pytest.mark.boot
def test_no_key_is_in_the_memory_of_a_realms_process(
    realm: Running, token: bytes, own_directory: Path
) -> None:
    """Although it uses signatures: no HUK, GUK, CPAK or RAK, in either byte order."""
    del token
    otp = Store(own_directory).load()
    assert otp is not None
    log = boot_log(own_directory, str(realm.pid))
    by_name = {name: algorithm for algorithm, name in HASH_NAMES.items()}
    slots = [
        Slot(
            int(event["slot"]),
            by_name[str(event["algorithm"])],
            bytes.fromhex(str(event["value"])),
            bytes.fromhex(str(event["signer_id"])),
            str(event["version"]),
            str(event["sw_type"]),
            is_locked=True,
        )
        for event in sorted(log, key=lambda event: int(event["slot"]))
    ]
    assert set(by_name.values()) == set(HASHES)
    rak = keys.derive_rak(otp.guk, otp.boot_hash, 0x3000, slots)
    cpak = keys.derive_cpak(otp.guk, otp.boot_hash)
    secrets = {"HUK": otp.huk, "GUK": otp.guk}
    for name, key in (("RAK", rak), ("CPAK", cpak)):
        number = key.private_numbers().private_value
        secrets[name] = number.to_bytes(48, "big")
        secrets[f"{name} as a number"] = number.to_bytes(48, "little")
    # The public part is there: we look at the right process, and derive the right key.
    known = {"public RAK": keys.public_bytes(rak)}
    assert found_in(realm.pid, {**secrets, **known}) == {"public RAK"}
    (hes,) = processes(own_directory)
    assert {"HUK", "GUK"} <= found_in(hes, secrets)


@pytest.mark.boot
def test_guest_goes_on_without_its_hes(realm: Running, token: bytes, own_directory: Path) -> None:
    """It gets a clear error and no more tokens; the last test of this guest."""
    del token
    (pid,) = processes(own_directory)
    os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        answer = realm.shell.run("attest")
        assert answer.status == 1
        assert answer.output == "attest: no token: the realm's platform cannot attest"
    assert realm.shell.run("echo alive").output == "alive"
    realm.shell.type("poweroff -f\n")
    assert realm.wait() == ExitCode.OK


# --- measured boot -------------------------------------------------------------------------------


def measured_by(root: Path, directory: Path) -> dict[int, bytes]:
    """Return the measurements of a boot of the installation in a directory."""
    program = "from pyvmm.cli import main; main()"
    ended = call(
        *(sys.executable, "-P", "-c", program, "hes", "--hes-dir", str(directory), "log", "--json"),
        env={"PYTHONPATH": str(root)},
    )
    assert ended.code == 0, ended.errors
    return replayed(json.loads(ended.output))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, bytes]]:
    """Return a copy of the installation, and the measurements of its boot."""
    root = tmp_path_factory.mktemp("installed")
    for name in ("hes", "monitor", "rmm", "pyvmm"):
        shutil.copytree(installation() / name, root / name, ignore=_ignore)
    return root, measured_by(root, root / "state")


@pytest.mark.parametrize(
    ("path", "slots"),
    [
        pytest.param("rmm/rtt.py", {14}, id="RMM"),
        pytest.param("monitor/gpt.py", {11}, id="EL3"),
        pytest.param("hes/keys.py", {0}, id="HES"),
        pytest.param("pyvmm/arch/rmi.py", {0, 11, 14}, id="what all are made with"),
        pytest.param("pyvmm/token/make.py", {0, 14}, id="what makes tokens"),
        pytest.param("pyvmm/core/machine.py", {5}, id="the machine"),
        pytest.param("pyvmm/vm/control/instance.py", set(), id="the normal world"),
    ],
)
def test_a_changed_byte_changes_its_slot_and_no_other(
    installed: tuple[Path, dict[int, bytes]], path: str, slots: set[int]
) -> None:
    """All code of a trusted world is measured."""
    root, before = installed
    assert before.keys() == SLOTS.keys()
    code = (root / path).read_bytes()
    (root / path).write_bytes(code + b"#")
    try:
        after = measured_by(root, root / "state")
    finally:
        (root / path).write_bytes(code)
    assert {slot for slot in before if before[slot] != after[slot]} == slots


def _ignore(_directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def test_measurements_do_not_depend_on_the_guest(tmp_path: Path) -> None:
    """One set of reference values per platform, whatever its guests' size."""
    first = boot_log(tmp_path / "hes")
    assert first == boot_log(tmp_path / "hes")
    versions = {event["sw_type"]: event["version"] for event in first}
    assert versions.pop("RMM") == "0.1.0+bet3"  # of RMI 2.0
    assert set(versions.values()) == {"0.1.0"}


def test_cpu_features_are_part_of_the_configuration() -> None:
    """They belong to the platform; no initial measurement contains them."""
    names = [
        json.loads(boot_images(Clock.REAL, features)[0].data)["cpu-features"]
        for features in (Feature(0), Feature.BTI, Feature.PAUTH | Feature.BTI)
    ]
    assert names == [[], ["bti"], ["bti", "pauth"]]


# --- a HES that fails ----------------------------------------------------------------------------


def decommission(directory: Path) -> None:
    """Decommission a platform."""
    assert with_hes(directory, "run", "--realm").code == 0
    assert with_hes(directory, "hes", "lifecycle", "decommissioned", "--yes").code == 0


def damage(directory: Path) -> None:
    """Remove a byte of the state."""
    assert with_hes(directory, "run", "--realm").code == 0
    path = directory / OTP_FILE
    path.write_bytes(path.read_bytes()[:-1])


def expose(directory: Path) -> None:
    """Give other users access."""
    directory.mkdir(mode=0o755)


def provision_half(directory: Path) -> None:
    """Omit the device maker's bundle."""
    made = with_hes(directory, "hes", "provision", "--make", str(directory.parent / "makers"))
    assert made.code == 0
    bundle = str(directory.parent / "makers" / "cm.bundle")
    assert with_hes(directory, "hes", "provision", bundle).code == 0


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (decommission, "its lifecycle state is decommissioned"),
        (damage, "is damaged"),
        (expose, "must be accessible only to you"),
        (provision_half, "give it the device maker's bundle"),
    ],
)
def test_realm_is_refused_and_a_normal_vm_runs(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    """With one clear line; --no-hes runs a realm that cannot attest."""
    directory = tmp_path / "hes"
    spoil(directory)
    ended = with_hes(directory, "run", "--realm")
    assert (ended.code, ended.output) == (ExitCode.BAD_INPUT, "")
    assert re.fullmatch(
        f"pyvmm: a realm needs its root of trust: .*{reason}.*"
        r" \(or run it unattested: --no-hes\)\n",
        ended.errors,
    )
    assert with_hes(directory, "run").code == ExitCode.OK
    without = with_hes(directory, "run", "--realm", "--no-hes")
    assert (without.code, without.errors) == (ExitCode.OK, "")
    assert without.output.startswith(HELLO)


def test_realm_is_refused_if_its_hes_goes_while_it_boots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the measurements, before the RMM has its token: it could never attest."""
    with RootOfTrust(tmp_path / "hes") as root_of_trust:
        call_hes = root_of_trust.mailbox.call

        def go(message: bytes) -> bytes:
            if PsaRequest(message[: PsaRequest.size]).handle == PsaHandle.DELEGATED_ATTESTATION:
                raise HesError("the HES has ended")
            return call_hes(message)

        monkeypatch.setattr(root_of_trust.mailbox, "call", go)
        with pytest.raises(UserError, match="a realm needs its root of trust: the HES gave"):
            Platform(64 << 20, 1, root_of_trust=root_of_trust)


def test_first_use_says_so_once_and_no_process_stays(tmp_path: Path) -> None:
    """A development identity is created, and its public key published for verifiers."""
    directory = tmp_path / "hes"
    first, second = (with_hes(directory, "run", "--realm") for _ in range(2))
    assert first.errors == f"pyvmm: made a random development identity in {directory}\n"
    assert second.errors == ""
    assert first.output == second.output
    assert (directory / "cpak.pem").read_text().startswith("-----BEGIN PUBLIC KEY-----")
    wait_for_end(directory)


def test_normal_vm_starts_no_hes(tmp_path: Path) -> None:
    """It needs none."""
    assert with_hes(tmp_path / "hes", "run").code == ExitCode.OK
    assert not (tmp_path / "hes").exists()
