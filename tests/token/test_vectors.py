"""The test vectors, through the command line: exit code and all findings."""

import json
from base64 import b64decode
from pathlib import Path

import pytest

from pyvmm.cli.verify import verify as command
from pyvmm.token.generations import Generation
from tests.token.vectors.make import HERE, files

Vector = dict[str, str]
VECTORS = [
    pytest.param(vector, id=f"{generation}-{vector['name']}")
    for generation in Generation
    for vector in json.loads((HERE / f"{generation}.json").read_bytes())
]


def test_there_are_enough_vectors() -> None:
    """Each profile has tokens that are accepted and tokens that are refused."""
    assert len(VECTORS) >= 60
    for generation in Generation:
        codes = {v["exit-code"] for v in json.loads((HERE / f"{generation}.json").read_bytes())}
        assert codes == {0, 1, 3, 4}


def test_vectors_are_what_the_script_makes() -> None:
    """`python -m tests.token.vectors.make` gives the same files."""
    stale = [name for name, data in files().items() if (HERE / name).read_bytes() != data]
    assert not stale


@pytest.mark.parametrize("vector", VECTORS)
def test_vector(
    vector: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code and exactly the expected paths."""
    token = tmp_path / "token"
    token.write_bytes(b64decode(str(vector["token"])))
    monkeypatch.chdir(HERE)
    arguments = [str(token), "--json", *str(vector["arguments"]).split()]
    code = command.main(arguments, standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    ours = result["pyvmm_report"]
    findings = ours["findings"]
    warnings = [f["path"] for f in findings if f["kind"] == "warning"]
    failures = [f["path"] for f in findings if f["kind"] != "warning"]
    assert sorted(failures) == vector["failures"], findings
    assert sorted(warnings) == vector["warnings"], findings
    assert code == vector["exit-code"] == ours["exit-code"]
    failed = {check for check, outcome in ours["checks"].items() if outcome == "failed"}
    assert failed == {f["check"] for f in findings if f["kind"] != "warning"}
    assert all(f["expected"] and f["actual"] for f in findings)
    assert not code or result["ear_status"] != "affirming"
    assert code != 1 or result["ear_status"] == "contraindicated"
