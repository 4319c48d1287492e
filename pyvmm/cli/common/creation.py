"""Create an instance in a process of its own."""

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import check_open_files, shortage
from pyvmm.arch.text import defect, printable
from pyvmm.cli.common.instances import code_of
from pyvmm.cli.common.kept import KeptOptions
from pyvmm.cli.common.owner import Owner
from pyvmm.cli.common.progress import Bar
from pyvmm.cli.common.say import say, say_lines
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.daemon import Message, Tell, spawn
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode, Failure
from pyvmm.vm.options import VmOptions


def create_instance(
    options: VmOptions, place: Directory, kept: KeptOptions, *, replaces: bool = False
) -> None:
    """Create an instance; return when its state is new.

    Args:
        options: the guest.
        place: the directory of the instances.
        kept: the options as the user gave them.
        replaces: it is the successor of an instance of the same name that has ended.

    Raises:
        UserError: the request is invalid, or not possible now.
        Failure: the instance could not be created; nothing is left of it.
    """
    check_open_files()
    with Bar() as bar:
        for message in spawn(
            lambda tell: _own(Owner(options, kept, replaces=replaces), place, tell)
        ):
            if message.is_ready:
                return
            if message.code:
                raise Failure(ExitCode(message.code), message.line)
            if message.notice:
                say(message.notice)
            bar.report(message.doing, message.share)
    raise Failure(ExitCode.UNREACHABLE, _death(options.name))


def _death(name: str) -> str:
    return f"{name} died while it was being created: pyvmm destroy {name} cleans up"


def _own(owner: Owner, place: Directory, tell: Tell) -> int:
    """Run the instance in its own process; return the process's exit code."""
    try:
        _take_name(owner, place)
        owner.lifecycle.subscribe(
            lambda status: tell(Message(is_ready=True)) if status.state == State.NEW else None
        )
        owner.lifecycle.subscribe(lambda status: _log_end(owner, status))
        code = owner.run(
            report=lambda doing, share: tell(Message(doing=doing, share=share)),
            notify=lambda line: tell(Message(notice=printable(line))),
            keeps_name=True,
        )
        line = f"{owner.lifecycle.status.name} was stopped while it was being created"
    except (UserError, Failure) as error:
        code, line = code_of(error), str(error)
    except Exception:  # noqa: BLE001  a defect, for the user to report
        code, line = ExitCode.INTERNAL, defect()
        say_lines(line)
    tell(Message(code=code, line=line))  # ignored once the instance was new
    return code


def _log_end(owner: Owner, status: Status) -> None:
    if status.state == State.STOPPED and owner.lifecycle.last_words:
        say(owner.lifecycle.last_words)


def _take_name(owner: Owner, place: Directory) -> None:
    try:
        owner.claim(place)
        owner.log_to_file()
    except OSError as error:
        line = f"{place.path}: {error.strerror}: an instance needs a few KiB there"
        raise UserError(shortage(error) or line) from None
