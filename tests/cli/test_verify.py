"""pyvmm verify and pyvmm token: options, exit codes, one line for each mistake."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from joserfc import jwt
from joserfc.jwk import ECKey

from pyvmm.cli import main
from pyvmm.root_of_trust import DIRECTORY_VARIABLE
from pyvmm.token.cbor import decode, encode
from pyvmm.token.claims import PlatformKey
from pyvmm.token.cose import cose_key
from pyvmm.token.ecdsa import public_point
from pyvmm.token.generations import Generation
from pyvmm.token.keys import instance_id_of
from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import PYVMM
from tests.boot.shell import PATIENCE, Shell
from tests.token.draft import CHALLENGE, RIM, Draft
from tests.token.keys import key
from tests.token.vectors.cases import longer_head
from tests.token.vectors.make import HERE

TOKEN = Draft.good(Generation.G1).encode()


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> "Run":
    """Return a function that runs pyvmm in a separate directory with a token."""
    (tmp_path / "token").write_bytes(TOKEN)
    (tmp_path / "cpak.pem").write_bytes((HERE / "cpak.pem").read_bytes())
    for name in ("cpak", "rak"):
        pem = key(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / f"{name}.key").write_bytes(pem)
    monkeypatch.chdir(tmp_path)
    return Run(monkeypatch, capfdbinary, tmp_path)


class Run:
    """Runs pyvmm in this process."""

    def __init__(
        self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes], where: Path
    ) -> None:
        self.patch = patch
        self.capture = capture
        self.where = where

    def __call__(self, line: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        """Return exit code, output and errors."""
        self.patch.setattr(sys, "argv", ["pyvmm", *line.split()])
        self.patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            main()
        out, err = self.capture.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err.decode()


# --- verify -----------------------------------------------------------------------------------


def test_verify_says_each_check_and_the_verdict(run: Run) -> None:
    """As text."""
    line = f"verify token --cpak cpak.pem --challenge {CHALLENGE.hex()} --rim {RIM.hex()}"
    code, out, err = run(line)
    assert (code, err) == (0, "")
    text = out.decode()
    for check in ("encoding", "binding", "realm signature", "challenge", "realm values"):
        assert f"passed   {check}\n" in text
    assert "skipped  software components\n" in text
    assert "platform: affirming: instance-identity trustworthy (2)\n" in text
    assert text.endswith("verified (profile g1)\n")


@pytest.mark.parametrize(
    "token", [TOKEN, TOKEN.hex().encode(), b64encode(TOKEN), b64encode(TOKEN) + b"\n"]
)
def test_verify_takes_standard_input_in_any_form(run: Run, token: bytes) -> None:
    """For example, as a guest prints it."""
    assert run("verify - --cpak cpak.pem", stdin=token)[0] == 0


def test_verify_names_all_that_is_wrong(run: Run) -> None:
    """Path, expected and actual value; exit code 4 means that it is authentic."""
    line = f"verify token --cpak cpak.pem --challenge 00 --rim {'00' * 32} --profile g2"
    code, out, _ = run(line)
    assert code == 4
    text = out.decode()
    assert "failed   profile\n         token: expected a token of g2, found g1\n" in text
    assert f"realm.cca-realm-challenge: expected {'00' * 64}, found {CHALLENGE.hex()}\n" in text
    expected = f"realm.cca-realm-initial-measurement: expected {'00' * 32}, found {RIM.hex()}\n"
    assert expected in text


def test_verify_warns_of_a_variant_and_refuses_it_strictly(run: Run) -> None:
    """A longer head, and an unsigned key id; other verbs accept such a token, too."""
    draft = Draft.good(Generation.G1)
    draft.platform.unprotected = {4: b"cpak"}
    draft.realm.payload = longer_head
    draft.realm.claims[44237] = longer_head(cose_key(public_point(draft.realm.key)))
    token = draft.encode()
    code, out, err = run("verify - --cpak cpak.pem", stdin=token)
    assert (code, err) == (0, "")
    text = out.decode()
    assert "warning: platform.unprotected: expected the strict form, found an unsigned" in text
    assert "warning: realm.payload: expected the strict form, found byte 0: not the short" in text
    assert text.endswith("verified (profile g1)\n")
    code, out, _ = run("verify - --cpak cpak.pem --strict", stdin=token)
    assert code == 4
    assert "failed   COSE_Sign1\n         platform.unprotected: expected" in out.decode()
    assert run("token show -", stdin=token)[0] == 0
    assert b"/ kid / 4: h'6370616b'" in run("token show --cbor-diag -", stdin=token)[1]
    assert run("token extract rak -", stdin=token)[0] == 0


def test_verify_says_that_a_profile_is_not_supported(run: Run) -> None:
    """G3 and the direct variant."""
    draft = Draft.good(Generation.G2B)
    draft.platform.claims[265] = "tag:arm.com,2026:cca_platform#2.0.0"
    code, out, _ = run("verify - --cpak cpak.pem", stdin=draft.encode())
    assert code == 3
    assert "unsupported profile: 'tag:arm.com,2026:cca_platform#2.0.0'" in out.decode()


def test_verify_finds_the_key_of_this_machine_s_hes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default, in the state directory of the HES; with the option, in a store."""
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(run.where / "hes"))
    draft = Draft.good(Generation.G1)
    point = public_point(key("cpak"))
    draft.platform.claims[int(PlatformKey.INSTANCE_ID)] = instance_id_of(point)
    token = draft.encode()
    assert run("verify -", stdin=token)[0] == 1
    directory = run.where / "hes/board"
    directory.mkdir(parents=True)
    (directory / "cpak.pem").write_bytes((HERE / "cpak.pem").read_bytes())
    assert run("verify -", stdin=token)[0] == 0
    store = run.where / "store"
    store.mkdir()
    assert run("verify - --trust-store store", stdin=token)[0] == 1
    (store / "one.pem").write_bytes((HERE / "cpak.pem").read_bytes())
    assert run("verify - --trust-store store", stdin=token)[0] == 0


def test_verify_takes_the_key_of_the_reference_file(run: Run) -> None:
    """The output of pyvmm endorse is enough if no other key is given."""
    root = json.loads((HERE / "reference.json").read_text())
    root["platform"]["cpak"] = (HERE / "cpak.pem").read_text()
    (run.where / "reference.json").write_text(json.dumps(root))
    assert run("verify token --reference reference.json")[0] == 0
    (run.where / "empty").mkdir()
    assert run("verify token --reference reference.json --trust-store empty")[0] == 1


def test_verify_of_a_replay_affirms_nothing(run: Run) -> None:
    """The platform token is no fresher than the realm token, which has the challenge."""
    code, out, _ = run(f"verify token --cpak cpak.pem --challenge {'00' * 64} --json")
    result = json.loads(out)
    assert (code, result["ear_status"]) == (4, "contraindicated")
    assert "eat_nonce" not in result
    for submod in result["submods"].values():
        assert submod["ear_status"] == "contraindicated"
        assert {*submod["ear_trustworthiness_vector"].values()} == {99}
    _, out, _ = run(f"verify token --cpak cpak.pem --challenge {'00' * 64}")
    assert "platform: contraindicated: crypto_validation_failed\n" in out.decode()


@pytest.mark.parametrize(("challenge", "code"), [(CHALLENGE.hex(), 0), ("00", 4)])
def test_verify_signs_its_result(run: Run, challenge: str, code: int) -> None:
    """Every result, with --json or without, is printed as a JWT."""
    line = f"verify token --cpak cpak.pem --challenge {challenge} --ear-key rak.key"
    for json_too in ("", " --json"):
        found, out, err = run(line + json_too)
        assert (found, err) == (code, "")
        public = ECKey.import_key((run.where / "rak.key").read_bytes())
        claims = jwt.decode(out.decode().strip(), public, algorithms=["ES384"]).claims
        assert claims["pyvmm_report"]["exit-code"] == code


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("verify absent", "token absent: No such file or directory: check the path"),
        ("verify .", "token . is a directory: give"),
        ("verify token --cpak absent", "key absent: No such file"),
        ("verify token --cpak token", "token is not a public key"),
        ("verify token --cpak cpak.key", "cpak.key is a private key"),
        ("verify token --ear-key absent", "key absent: No such file"),
        ("verify token --ear-key cpak.pem", "cpak.pem is not a private key"),
        ("verify token --trust-store absent", "Directory 'absent' does not exist"),
        ("verify token --reference token", "token is not JSON"),
        ("verify token --challenge xyz", "--challenge xyz: give hexadecimal digits"),
        (f"verify token --challenge {'00' * 65}", "--challenge has 65 bytes: the limit is 64"),
        *(
            (f"verify token {option}{digits}", f"{option.strip(' =')} is empty: give hexadecimal")
            for option in ("--challenge=", "--rim=", "--rpv=", "--rem 0=")
            for digits in ("", "0x")
        ),
        ("verify token --rim 00", "--rim has 1 byte"),
        ("verify token --rem 00", "--rem 00: give a number (0 to 3)"),
        ("verify token --rem 4=00", "--rem 4=00: give a number (0 to 3)"),
        ("verify token --rem 0=00", "--rem 0 has 1 byte"),
        (f"verify token --rpv {'00' * 65}", "--rpv has 65 bytes"),
        ("verify token --profile g3", "'g3' is not one of"),
        ("verify", "Missing argument 'TOKEN'"),
        ("token show absent", "token absent: No such file"),
        ("token extract key token", "'key' is not one of"),
        ("token extract rak token -o absent/rak", "cannot write absent/rak"),
        ("token compile token --cpak cpak.key --rak rak.key", "token is not JSON"),
        ("token compile absent --cpak cpak.key --rak rak.key", "token absent: No such file"),
        ("token compile token --cpak cpak.key", "Missing option '--rak'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run: Run, line: str, complaint: str) -> None:
    """The line contains the remedy."""
    code, out, err = run(line)
    assert (code, out) == (2, b"")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "verify token --cpak {0}.pem",
        "verify token --trust-store .",
        "token compile claims --cpak {0}.key --rak rak.key",
        "token compile claims --cpak cpak.key --rak {0}.key",
        "verify token --cpak cpak.pem --ear-key {0}.key",
    ],
)
@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.BrainpoolP384R1()], ids=lambda c: c.name)
def test_a_key_on_a_foreign_curve_is_one_line(run: Run, line: str, curve: ec.EllipticCurve) -> None:
    """Although it has a supported length."""
    private = ec.generate_private_key(curve)
    encoded = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (run.where / f"{curve.name}.key").write_bytes(encoded)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (run.where / f"{curve.name}.pem").write_bytes(public)
    (run.where / "claims").write_bytes(run("token show --json token")[1])
    code, out, err = run(line.format(curve.name))
    assert (code, out) == (2, b"")
    assert f"{curve.name}." in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("stdin", [b"", b"hello", b"\xd9\x01", b"\xff" * 300_000])
def test_what_is_no_token_is_malformed(run: Run, stdin: bytes) -> None:
    """Exit code 3, and JSON if requested."""
    assert run("verify -", stdin=stdin)[0] == 3
    code, out, _ = run("verify - --json", stdin=stdin)
    assert code == 3
    assert json.loads(out)["pyvmm_report"]["findings"][0]["check"] == "encoding"
    assert run("token show -", stdin=stdin)[0] == 3
    assert run("token extract realm -", stdin=stdin)[0] == 3


def test_exit_code_is_the_process_s(run: Run) -> None:
    """As a script gets it."""
    pyvmm = str(Path(sys.executable).parent / "pyvmm")
    for challenge, code in ((CHALLENGE.hex(), 0), ("00", 4)):
        line = [pyvmm, "verify", "token", "--cpak", "cpak.pem", "--challenge", challenge]
        ended = subprocess.run(line, cwd=run.where, capture_output=True, check=False)
        assert ended.returncode == code


# --- token ------------------------------------------------------------------------------------


def test_show_prints_claims(run: Run) -> None:
    """As text, whoever signed the token."""
    code, out, err = run("token show token")
    assert (code, err) == (0, "")
    text = out.decode()
    assert "cca-platform-lifecycle" in text
    assert "12291 (0x3003)" in text
    assert "  - measurement-type" in text
    assert RIM.hex() in text
    assert "profile: g1\n" in text


def test_show_prints_a_line_for_each_claim(run: Run) -> None:
    """Keys are complete, and there is no invisible text; on a terminal, too."""
    (key,) = re.findall(b"cca-realm-public-key +([0-9a-f]+)\n", run("token show token")[1])
    assert len(key) > 2 * 96
    lines = run("token show token")[1].decode().splitlines()
    assert all(line == line.rstrip() for line in lines)
    ours, theirs = pty.openpty()
    command = [PYVMM, "token", "show", "token"]
    with subprocess.Popen(command, cwd=run.where, stdout=theirs) as process:
        os.close(theirs)
        shown = Shell(ours, ours).read_all()
        assert process.wait(PATIENCE) == ExitCode.OK
    os.close(ours)
    assert shown.splitlines() == lines


def test_show_prints_diagnostic_notation(run: Run) -> None:
    """Of the whole token."""
    code, out, _ = run("token show --cbor-diag token")
    assert code == 0
    assert out.startswith(b"399({\n")
    assert b"/ cca-platform-lifecycle / 2395: 12291,\n" in out


def test_show_prints_what_it_can_of_a_bad_token(run: Run) -> None:
    """And reports what is wrong with it."""
    draft = Draft.good(Generation.G1)
    draft.platform.claims[2395] = "\x1b[31mred"
    draft.realm.payload = lambda data: data[:-1]
    code, out, err = run("token show -", stdin=draft.encode())
    assert code == 3
    assert b"cca-platform-config" in out
    assert b"\x1b[31m" not in out
    assert "platform.cca-platform-lifecycle: expected 0x00xx" in err
    assert "realm.payload: expected claims, found not strict CBOR" in err


def test_show_and_compile_go_round(run: Run) -> None:
    """The claims stay the same, and the new token verifies."""
    code, claims, _ = run("token show --json token")
    assert code == 0
    (run.where / "claims").write_bytes(claims)
    line = "token compile claims --cpak cpak.key --rak rak.key"
    assert run(f"{line} -o again")[0] == 0
    assert run("verify again --cpak cpak.pem")[0] == 0
    assert run("token show --json again")[1] == claims
    code, out, _ = run(f"{line} --profile g1b --format base64")
    assert b64decode(out).hex().startswith("d9038b")
    assert run(f"{line} --format hex")[1].startswith(b"d9018f")


def test_compile_refuses_a_claim_that_is_there_twice(run: Run) -> None:
    """Otherwise one of them would be lost."""
    _, claims, _ = run("token show --json token")
    name = b'"cca-platform-config": '
    twice = claims.replace(name, name + b'"", ' + name)
    (run.where / "claims").write_bytes(twice)
    code, out, err = run("token compile claims --cpak cpak.key --rak rak.key")
    assert (code, out) == (2, b"")
    assert err == "pyvmm: claims is not JSON: duplicate member 'cca-platform-config'\n"


def test_extract_gives_each_part(run: Run) -> None:
    """As encoded in the token; the key in a form that other tools read."""
    _, platform, _ = run("token extract platform token")
    _, realm, _ = run("token extract realm token")
    assert encode(decode(platform)) in TOKEN
    assert encode(decode(realm)) in TOKEN
    for part, whole in (("platform", platform), ("realm", realm)):
        _, claims, _ = run(f"token extract {part}-claims token")
        assert claims in whole
        assert isinstance(decode(claims), dict)
    _, rak, _ = run("token extract rak token")
    public = load_pem_public_key(rak).public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert public == public_point(key("rak"))
    legacy = Draft.good(Generation.G0).encode()
    assert run("token extract rak -", stdin=legacy)[1] == rak
    assert run("token extract realm token --format hex")[1] == realm.hex().encode() + b"\n"


def test_extract_refuses_a_key_that_is_none(run: Run) -> None:
    """With one line."""
    draft = Draft.good(Generation.G1)
    draft.realm.claims[44237] = b"\x04" * 97
    code, out, err = run("token extract rak -", stdin=draft.encode())
    assert (code, out) == (3, b"")
    assert "realm.cca-realm-public-key: not a point on its curve" in err
