"""The command line: its verbs, and one line for each mistake."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from pyvmm import cli
from pyvmm.arch.errors import UserError
from pyvmm.arch.events import KINDS, MmioAccess, PsciCall
from pyvmm.cli import VERBS, Verbs, main
from pyvmm.cli.common.trace import Trace
from pyvmm.cli.run import run as run_command
from pyvmm.vm.control.api import API_VERSION, State, Status
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode
from tests.cli.inside import verb

MAX_CPU_TIME = 5.0  # seconds: enough on any machine, and no time to read what never ends


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Run pyvmm; return exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["pyvmm", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, out, err


def test_every_verb_has_its_command() -> None:
    """The table names a module that defines a command of that name."""
    group, context = cli.cli, click.Context(cli.cli)
    assert isinstance(group, Verbs)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        assert command.name == name
    assert group.get_command(context, "none") is None


def test_help_lists_the_verbs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without importing them."""
    code, out, _ = call(monkeypatch, capsys, "--help")
    assert code == 0
    assert all(verb in out for verb in VERBS)


def test_every_option_of_run_says_what_it_does() -> None:
    """The help is the reference."""
    for parameter in run_command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("run -m 0", "-m 0: a guest needs at least 4M"),
        ("run -m 1T", "-m 1T: this machine has"),
        ("run -c 0", "-c 0: give 1 to 16 CPUs"),
        ("run --cpu-features sve", "unknown feature 'sve': give +pauth or -pauth, +bti"),
        ("create r1 --cpu-features +bti,", "unknown feature '': give"),
        ("measure --realm --cpu-features +mte", "unknown feature '+mte': give"),
        ("endorse --cpu-features -bti,-bti", "bti occurs twice: give it once"),
        ("run --kernel {}/none", "No such file"),
        ("run {}", "is a directory"),
        ("run {}/text", "text file"),
        ("run {}/x86", "x86 kernel"),
        ("run {}/x86 -k {}/x86", "two kernels"),
        ("run --initrd {}/none", "No such file"),
        ("run -m 16 --initrd {}/huge", "is larger than 16 MiB: give more with -m"),
        ("run --disk {}", "is a directory"),
        ("run --disk {}/none", "No such file"),
        ("run --disk {}/text,rx", "give ro, rw, direct"),
        ("run -d {}/text -d {}/text,ro", "/text: given twice: copy the image"),
        ("run --realm-pv x", "add --realm"),
        ("run --realm --balloon", "host cannot take memory from a realm"),
        ("run --realm-debug", "--realm-debug is for realms: add --realm"),
        ("run --realm --measurement-algo md5", "'md5' is not one of"),
        ("run --trace everything", "--trace everything: give all, help or some of rmi"),
        ("run --trace help:{}", "--trace help: give all, help or some of rmi"),
        ("run --trace rmi,all", "--trace all: give all, help or some of rmi"),
        ("run --trace-format xml", "'xml' is not one of 'text', 'json'"),
        ("run --trace mmio:{}", "Is a directory"),
        ("run --gdb 65536", "--gdb 65536: a port is at most 65535"),
        ("run --gdb {}", "Address already in use"),
        ("run --gdb {}/none/gdb", "No such file or directory"),
        ("run --gdb-wait", "--gdb-wait requires --gdb"),
        ("run --realm --no-hes --gdb {}/gdb", "a realm hides its registers and memory"),
        ("run --colour", "No such option"),
        ("run --timeout soon", "--timeout"),
        ("run --timeout nan", "'nan' is not a number of seconds"),
        ("run --timeout inf", "inf is not in the range 0<=x<=2000000"),
        ("stop r1 --timeout 1e300", "1e+300 is not in the range"),
        ("wait r1 --timeout 2e10", "is not in the range"),
        ("fly", "fly"),
        ("strat r1", "No such command 'strat': did you mean stat or start? (see"),
        ("run --name=", "name ''"),
        ("measure {}/none", "neither an instance (pyvmm list) nor a kernel"),
        ("measure {}/none --realm", "No such file"),
        ("endorse --corim-draft 03", "--corim-draft requires --corim: add --corim DIR"),
        ("endorse --corim {} --corim-draft 02", "'02' is not one of '03', '04'"),
        ("image build slackware", "slackware"),
        ("exec r1", "COMMAND"),
        ("exec r1 uname -r", "Put -- before the command: pyvmm exec NAME -- COMMAND"),
        ("exec r1 -r -- uname", "No such option '-r'. (see"),
        ("exec r1 -e =x -- true", "--env =x: give NAME=VALUE"),
        ("exec none -- true", "none"),
        ("attest none", "none"),
        ("attest r1 --challenge xyz", "--challenge xyz: give hexadecimal digits"),
        ("attest r1 --challenge=", "--challenge is empty: give hexadecimal digits"),
        ("attest r1 --challenge 00ff", "2 bytes: give 32 to 64"),
        ("image build debian --size big", "--size big: give a size"),
        ("image build debian --size 0", "--size 0: give a size such as 512M"),
        ("image build rootfs", "--from-dir"),
        ("image build rootfs --from-dir {}/none", "no such directory"),
        ("image build rootfs --from-dir {} --size big", "--size big: give a size"),
        ("image build rootfs --from-dir {} --size 1G --initrd x", "give one of them"),
        ("image build rootfs --from-dir {} -e =x", "give NAME=VALUE"),
        (
            "image build rootfs --from-dir {} -o {}/../r.img",
            "give the program's path inside the directory with --init",
        ),
        ("image build rootfs --from-dir {} -o {}/../r.img --init /text", "not executable"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: str,
    complaint: str,
) -> None:
    """Reported before anything is started or read to its end."""
    (tmp_path / "text").write_text("not a kernel\n" * 100)
    (tmp_path / "x86").write_bytes(bytes(0x202) + b"HdrS" + bytes(4096))
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 30)
    start = time.process_time()
    code, out, err = call(monkeypatch, capsys, *arguments.replace("{}", str(tmp_path)).split())
    assert time.process_time() - start < MAX_CPU_TIME
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("pyvmm: ")
    assert complaint in err


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ("run -k", "pyvmm run"),
        ("run --colour", "pyvmm run"),
        ("run --name", "pyvmm run"),
        ("create", "pyvmm create"),
        ("exec r1 --env", "pyvmm exec"),
        ("token compile --cpak", "pyvmm token compile"),
        ("token --what", "pyvmm token"),
        ("image build debian --output", "pyvmm image build debian"),
        ("--what", "pyvmm"),
        ("fly --what", "pyvmm"),
    ],
)
def test_a_mistake_refers_to_the_help_of_its_verb(arguments: str, path: str) -> None:
    """For every mistake that click detects."""
    ended = verb(*arguments.split())
    assert (ended.code, ended.output, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, "", 1)
    assert ended.errors.endswith(f" (see {path} --help)\n")


def test_a_disk_may_be_there_twice_if_it_is_only_read(tmp_path: Path) -> None:
    """Without a writer it is harmless; another name for the file makes no difference."""
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    disk, link = (f"{tmp_path / name}" for name in ("disk", "link"))
    assert verb("run", "-m", "64", "-d", f"{disk},ro", "-d", f"{link},ro").code == ExitCode.OK
    ended = verb("run", "-m", "64", "-d", disk, "-d", link)
    line = f"pyvmm: disk {link}: given twice: copy the image, or give it with ,ro both times\n"
    assert (ended.code, ended.errors) == (ExitCode.BAD_INPUT, line)


def test_the_package_can_be_run() -> None:
    """With python -m, if the command is not on the path."""
    command = [sys.executable, "-m", "pyvmm", "version"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == verb("version").output
    command = [sys.executable, "-m", "pyvmm", "fly"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert ended.stderr.startswith("pyvmm: ")


def test_trace_writes_the_kinds_asked_for(tmp_path: Path) -> None:
    """One line per event, of the chosen kinds only."""
    path = tmp_path / "trace"
    psci = PsciCall(0, "PSCI_VERSION", (), 1)
    with Trace(f"rmi,psci:{path}", clock=iter((5.0, 6.5)).__next__) as listener:
        listener(MmioAccess("uart0", 0, 1, is_write=False, value=0))
        listener(psci)
    assert path.read_text() == f"  1.500000  - {psci}\n"


def test_trace_knows_all_kinds_of_the_help() -> None:
    """Each kind opens; an unknown one is refused."""
    for kind in (*KINDS, "all"):
        Trace(kind)
    with pytest.raises(UserError):
        Trace("")


def test_a_defect_of_ours_has_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a traceback; scripts can tell it from a guest's exit code."""
    monkeypatch.setattr(Directory, "statuses", lambda _: 1 / 0)
    ended = verb("list")
    assert (ended.code, ended.output) == (ExitCode.INTERNAL, "")
    assert "ZeroDivisionError" in ended.errors


def test_a_stale_core_is_one_line() -> None:
    """The line says which command rebuilds it."""
    stale = "from pyvmm.core import generate; generate.digest = str"
    program = f"{stale}; from pyvmm.cli import main; main()"
    command = [sys.executable, "-c", program, "run"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert ended.stderr == "pyvmm: the C core is stale: run `make setup`\n"


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own exit code."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Directory, "statuses", interrupt)
    ended = verb("list")
    line = "pyvmm: interrupted\n"
    assert (ended.code, ended.output, ended.errors) == (ExitCode.INTERRUPTED, "", line)


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 300, "\u00e9", "a\nb", ".x", "*", "a b"])
def test_a_name_that_cannot_be_is_one_line(name: str) -> None:
    """For every verb that takes a name, to create an instance or to find one."""
    verbs = ["start", "stop", "destroy", "pause", "resume", "stat", "debug", "balloon", "network"]
    lines = [[each, name] for each in verbs] + [["console", "-n", name], ["wait", "-n", name]]
    lines += [["attest", "-n", name], ["exec", name, "--", "true"]]
    lines += [["create", name], ["run", "--name", name]]
    for line in lines:
        ended = verb(*line)
        assert (ended.code, ended.output, ended.errors.count("\n")) == (2, "", 1), line
        assert ended.errors.startswith("pyvmm: ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_its_shell(shell: str) -> None:
    """The script asks pyvmm for the completions."""
    ended = verb("completion", shell)
    assert (ended.code, ended.errors) == (0, "")
    assert f"_PYVMM_COMPLETE={shell}_complete" in ended.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [("pyvmm pau", "pause"), ("pyvmm run --meas", "--measurement-algo"), ("pyvmm stop ", "r1")],
)
def test_completion_knows_verbs_options_and_instances(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    expected: str,
) -> None:
    """When called like the script calls it."""
    status = Status(
        name="r1", state=State.NEW, pid=os.getpid(), kind="vm", num_cpus=1, ram_size=0, created=0
    )
    claim = Directory.of_user().claim(status)
    monkeypatch.setenv("_PYVMM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    code, out, _ = call(monkeypatch, capsys)
    claim.release(keep=False)
    assert code == 0
    assert f"plain,{expected}" in out.splitlines()


def test_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option and the verb print the same version."""
    by_verb = call(monkeypatch, capsys, "version")
    assert by_verb == call(monkeypatch, capsys, "--version")
    assert by_verb[1].startswith("pyvmm ")
    said = json.loads(verb("version", "--json").output)
    assert (by_verb[1], said["api"]) == (f"pyvmm {said['pyvmm']}\n", API_VERSION)
