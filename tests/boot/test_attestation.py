"""Attestation from inside a realm: a verifier accepts the token with the correct claims."""

import base64
from pathlib import Path

import pytest

from pyvmm.arch.islet import METADATA_SIZE, IsletRsiFid, SealingFlags
from pyvmm.arch.rsi import RsiFid, RsiStatus
from pyvmm.token.appraise import Policy
from pyvmm.token.claims import RealmKey
from pyvmm.token.generations import Generation, RealmProfile
from pyvmm.token.reference import RealmValues, ReferenceValues
from pyvmm.token.report import Report
from pyvmm.token.trust import hes_anchors
from pyvmm.token.verify import verify
from pyvmm.vm.images.debian import Image
from tests.boot.command import Ended, guest_options, pyvmm
from tests.boot.rsi_guest import DUMP, PAGE, answers, rsi_guest
from tests.rmm.metadata import realm_metadata

CHALLENGE = bytes(range(64))
CHALLENGE_WORDS = [int.from_bytes(CHALLENGE[at : at + 8], "little") for at in range(0, 64, 8)]
RPV = b"mine".ljust(64, b"\0")
MAX_WORDS = 256
INITRD = __file__  # of any bytes: the program does not look
EXTENDED = (RsiFid.RSI_MEASUREMENT_EXTEND, 2, 8, 0x1234)
INIT = (RsiFid.RSI_ATTESTATION_TOKEN_INIT, *CHALLENGE_WORDS)
CONTINUE = (RsiFid.RSI_ATTESTATION_TOKEN_CONTINUE, PAGE, 0, 4096)
SEALING_KEY = IsletRsiFid.RSI_ISLET_REALM_SEALING_KEY


def run(tmp_path: Path, kernel: bytes, *options: str | Path) -> Ended:
    """Run a program in a realm."""
    path = tmp_path / "kernel"
    path.write_bytes(kernel)
    return pyvmm("run", "--realm", "-m", "64M", "-k", path, *options)


def token_of(tmp_path: Path, kernel: bytes, *options: str | Path) -> bytes:
    """Run a program that gets and prints a token; return the token."""
    ended = run(tmp_path, kernel, *options)
    assert ended.code == 0, ended.errors
    *extended, begun, done, words = answers(ended.output)[:4]
    assert {answer[0] for answer in (*extended, begun, done)} == {RsiStatus.SUCCESS}
    assert done[1] <= min(begun[1], 8 * MAX_WORDS)
    return b"".join(word.to_bytes(8, "little") for word in words)[: done[1]]


def rim_of(tmp_path: Path, *options: str | Path) -> bytes:
    """Return the expected measurement."""
    ended = pyvmm("measure", "--realm", "-m", "64M", "-k", tmp_path / "kernel", *options)
    return bytes.fromhex(ended.output)


def check(token: bytes, hes: Path, values: RealmValues) -> Report:
    """Verify a token with everything that is known about the realm."""
    reference = ReferenceValues(realm=values)
    policy = Policy(challenge=CHALLENGE, reference=reference, is_strict=True)
    report = verify(token, hes_anchors(hes), policy)
    assert report.findings == []
    return report


@pytest.mark.parametrize(
    ("generation", "options"),
    [
        (Generation.G0, ["-c", "2"]),
        (Generation.G1, ["--measurement-algo", "sha512"]),
        (Generation.G1B, ["-m", "96M", "-i", INITRD]),
        (Generation.G2, ["--measurement-algo", "sha512", "-i", INITRD, "-c", "3"]),
        (Generation.G2B, ["-m", "80M", "-c", "2"]),
        (Generation.G2, ["--rmi", "2.0", "--measurement-algo", "sha384"]),
        (Generation.G2B, ["--rmi", "2.0", "-c", "2"]),
        (Generation.G2B, ["--pmu", "--pmu-counters", "3"]),
    ],
)
def test_token_of_each_profile_verifies(
    tmp_path: Path, hes_directory: Path, generation: Generation, options: list[str]
) -> None:
    """With the predicted measurement, and the later extensions."""
    options = ["--token-profile", generation, "--realm-pv", "mine", *options]
    kernel = rsi_guest(EXTENDED, INIT, CONTINUE, (DUMP, PAGE, MAX_WORDS))
    token = token_of(tmp_path, kernel, *options)
    values = RealmValues(rim=rim_of(tmp_path, *options), rpv=RPV)
    report = check(token, hes_directory, values)
    assert report.generation is generation
    assert report.realm is not None
    rems = report.realm[RealmKey.REMS]
    assert isinstance(rems, list)
    size = {"sha512": 64, "sha384": 48}.get(next((o for o in options if "sha" in o), ""), 32)
    assert [rem == bytes(size) for rem in rems] == [True, False, True, True]


def test_token_of_rmi_2_0_says_so(tmp_path: Path, hes_directory: Path) -> None:
    """By the profile of its realm claims, whatever the platform's token is."""
    options = ("--rmi", "2.0", "--realm-pv", "mine")
    token = token_of(tmp_path, rsi_guest(INIT, CONTINUE, (DUMP, PAGE, MAX_WORDS)), *options)
    report = check(token, hes_directory, RealmValues(rim=rim_of(tmp_path, *options), rpv=RPV))
    assert report.realm is not None
    assert report.realm[RealmKey.PROFILE] == RealmProfile.V2
    assert report.realm[RealmKey.MEC_POLICY] == 0


@pytest.mark.usefixtures("hes_directory")
def test_what_is_endorsed_is_what_is_attested(tmp_path: Path) -> None:
    """All values match; another realm's token is authentic, but refused."""
    token, reference = tmp_path / "token", tmp_path / "reference.json"
    token.write_bytes(token_of(tmp_path, rsi_guest(INIT, CONTINUE, (DUMP, PAGE, MAX_WORDS))))
    endorsed = pyvmm("endorse", "--realm", "-m", "64M", "-k", tmp_path / "kernel")
    reference.write_text(endorsed.output)
    checks: list[str | Path] = [
        "--reference",
        reference,
        "--challenge",
        CHALLENGE.hex(),
        "--strict",
    ]
    ended = pyvmm("verify", token, *checks)
    assert (ended.code, "fail" in ended.output) == (0, False), ended.output
    assert pyvmm("verify", token, "--rim", "00" * 32, *checks).code == 4
    other = rsi_guest(EXTENDED, INIT, CONTINUE, (DUMP, PAGE, MAX_WORDS))
    token.write_bytes(token_of(tmp_path, other))
    assert pyvmm("verify", token, *checks).code == 4
    assert pyvmm("endorse", "--no-hes").code == 2


@pytest.mark.parametrize(
    ("options", "prefix"),
    [((), ""), (("--corim-draft", "03"), ""), (("--corim-draft", "04"), "endorsements/")],
)
def test_endorse_writes_corims_by_either_draft(
    tmp_path: Path, hes_directory: Path, options: tuple[str, ...], prefix: str
) -> None:
    """Draft -03 by default, which today's Veraison reads."""
    file = tmp_path / "corim/platform.cbor"
    files = pyvmm("endorse", "--hes-dir", hes_directory, "--corim", file.parent, *options)
    assert files.output.splitlines() == [str(file)]
    assert file.read_bytes().startswith(b"\xd9\x01\xf5")
    assert file.read_bytes().endswith(f"tag:arm.com,2025:{prefix}cca_platform#1.0.0".encode())


def test_endorsing_a_new_platform_says_that_it_is_new(tmp_path: Path) -> None:
    """An identity is never created silently."""
    directory = tmp_path / "hes"
    ended = pyvmm("endorse", "--hes-dir", directory)
    assert ended.errors == f"pyvmm: made a random development identity in {directory}\n"
    assert '"cpak"' in ended.output


def test_realm_without_a_root_of_trust_cannot_attest(tmp_path: Path) -> None:
    """The call fails, and the realm works otherwise."""
    ended = run(tmp_path, rsi_guest(INIT, CONTINUE, CONTINUE, EXTENDED), "--no-hes")
    statuses = [answer[0] for answer in answers(ended.output)]
    assert statuses[1:3] == [RsiStatus.ERROR_UNKNOWN, RsiStatus.ERROR_STATE]
    assert statuses[3] == RsiStatus.SUCCESS


@pytest.mark.boot
def test_debian_attests_with_nothing_added(debian: Image, hes_directory: Path) -> None:
    """With the image's own script, and the measured kernel, initrd and disk."""
    options = ["--realm", "--realm-pv", "mine", *guest_options(debian, debian.rootfs)]
    options[-1] = f"{debian.rootfs},ro"
    script = (
        f"attest {CHALLENGE.hex()}; attest; attest 00; uname -r; "
        "[ -z $(ls /sys/kernel/config/tsm/report) ] && echo clean\npoweroff -f\n"
    )
    ended = pyvmm("run", *options, typed=script)
    assert (ended.code, ended.errors) == (0, "")
    lines = [line.strip() for line in ended.output.splitlines()]
    tokens = [base64.b64decode(line) for line in lines if line.startswith("2QGPo")]
    assert len(tokens) == 2
    assert "attest: the challenge has 2 digits: give 64 to 128 (32 to 64 bytes)" in lines
    assert "clean" in lines
    rim = bytes.fromhex(pyvmm("measure", *options).output)
    values = RealmValues(rim=rim, rems=(bytes(32),) * 4, rpv=RPV)
    report = check(tokens[0], hes_directory, values)
    assert report.generation is Generation.G1
    other = verify(tokens[1], hes_anchors(hes_directory), Policy(challenge=CHALLENGE))
    assert [finding.path for finding in other.findings] == ["realm.cca-realm-challenge"]


# --- sealing keys -----------------------------------------------------------------------------


def sealing_key(tmp_path: Path, flags: int, svn: int, *options: str | Path, name: int = 0) -> bytes:
    """Get a sealing key of a realm; another ``name`` gives another program."""
    kernel = rsi_guest((SEALING_KEY, flags, svn), (RsiFid.RSI_VERSION, name))
    ended = run(tmp_path, kernel, *options)
    assert ended.code == 0, ended.errors
    status, *words = answers(ended.output)[0][:5]
    assert status == RsiStatus.SUCCESS
    return b"".join(word.to_bytes(8, "little") for word in words)


def test_sealing_key_is_this_realms_on_this_platform(tmp_path: Path) -> None:
    """The same in each run; other programs, values and platforms get other keys."""
    first = sealing_key(tmp_path, 0, 0)
    others = [
        sealing_key(tmp_path, SealingFlags.VHUK_M, 0),
        sealing_key(tmp_path, 0, 0, name=1),
        sealing_key(tmp_path, 0, 0, "--realm-pv", "mine"),
        sealing_key(tmp_path, 0, 0, "--hes-dir", tmp_path / "hes"),
    ]
    assert sealing_key(tmp_path, 0, 0) == first
    assert len({first, *others}) == 5


def test_update_of_the_same_owner_keeps_its_key(tmp_path: Path) -> None:
    """With the owner's metadata for each version; metadata of another realm are refused."""
    flags = SealingFlags.REALM_ID | SealingFlags.SVN
    block = tmp_path / "metadata"
    keys = []
    for name, svn in ((0, 5), (1, 6)):
        kernel = rsi_guest((SEALING_KEY, flags, 5), (RsiFid.RSI_VERSION, name))
        (tmp_path / "kernel").write_bytes(kernel)
        metadata = realm_metadata(rim=rim_of(tmp_path), svn=svn)
        block.write_bytes(bytes(metadata.data)[:METADATA_SIZE])
        keys.append(sealing_key(tmp_path, flags, 5, "--metadata", block, name=name))
    assert keys[0] == keys[1]
    refused = run(tmp_path, rsi_guest(INIT), "--metadata", block)
    assert (refused.code, refused.errors.count("\n")) == (2, 1)
    assert "made for another realm" in refused.errors
