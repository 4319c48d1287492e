"""An option is declared once: it is on the command line, in configurations and in the manual."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import tomli_w

from pyvmm.cli.common import options
from pyvmm.cli.common.configuration import named_options
from pyvmm.cli.common.manual import pages
from pyvmm.cli.common.options import guest_options, plan_options, vm_options
from pyvmm.cli.create import create
from pyvmm.cli.endorse import endorse
from pyvmm.cli.measure import measure
from pyvmm.cli.run import run
from pyvmm.token.generations import Generation
from pyvmm.vm.declare import Kind, Option, Scope, declared, option, repeatable
from pyvmm.vm.options import OPTIONS, VmOptions
from tests.cli.inside import verb

PAGES = dict(pages())
BY_FIELD = pytest.mark.parametrize(("field", "option"), OPTIONS.items(), ids=OPTIONS)


def in_toml(option: Option) -> str | float | bool | list[str]:
    """Return a value that a configuration may give to the option."""
    if option.kind is Kind.SWITCH:
        return True
    if option.kind is Kind.SECONDS:
        return 2.5
    text = option.choices[-1] if option.choices else "/x"
    return [text, text] if option.is_repeatable else text


def on_command_line(option: Option) -> list[str]:
    """Return the same for the command line."""
    value = in_toml(option)
    if value is True:
        return [option.flag]
    return [f"{option.flag}={each}" for each in (value if isinstance(value, list) else [value])]


@BY_FIELD
def test_every_option_is_in_a_configuration_and_on_the_command_line(
    field: str, option: Option, tmp_path: Path
) -> None:
    """What `pyvmm config show` prints is the same for both."""
    del field
    path, wanted = tmp_path / "guest.toml", {option.flag.removeprefix("--"): in_toml(option)}
    path.write_text(tomli_w.dumps(wanted))
    for arguments in (["--config", str(path)], on_command_line(option)):
        shown = verb("config", "show", "--set", *arguments)
        assert (shown.errors, tomllib.loads(shown.output)) == ("", wanted)


@BY_FIELD
@pytest.mark.parametrize("command", [run, create, measure, endorse])
def test_every_verb_that_makes_a_guest_takes_every_option(
    command: click.Command, field: str, option: Option
) -> None:
    """Its help and its manual show those that have an effect."""
    taken = named_options(command)[option.flag.removeprefix("--")]
    assert taken.name == field
    assert taken.opts + taken.secondary_opts == "/".join(option.flags).split("/")
    has_effect = option.scope is not Scope.RUN or command in {run, create}
    assert taken.hidden != has_effect
    flag = option.flag.replace("-", r"\-")
    assert (flag in PAGES[f"pyvmm-{command.name}"]) == has_effect


def test_what_the_verb_gets_is_what_the_virtual_machine_has() -> None:
    """By the names of the fields; what concerns a run is left out where there is none."""
    seen: list[VmOptions] = []

    @click.command
    @guest_options
    def runs(positional: Path | None, **asked: object) -> None:
        assert set(asked) == set(OPTIONS)
        seen.append(vm_options(positional, asked))

    @click.command
    @plan_options
    def plans(positional: Path | None, **asked: object) -> None:
        seen.append(vm_options(positional, asked, is_run=False))

    words = ["files/kernel", "-c", "2", "--nodefaults", "--timeout", "3", "--name", "r1"]
    for command in (runs, plans):
        command.main(words, standalone_mode=False)
    planned = VmOptions(kernel=Path("files/kernel"), num_cpus=2, has_defaults=False, name="r1")
    assert seen[1] == planned
    assert (seen[0] != planned, seen[0].timeout) == (True, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class More(VmOptions):
    """A virtual machine with two more options, which are only declared."""

    flavour: str = option("a", "--flavour", "how", read=str, choices=("a", "b"), default_text="a")
    places: tuple[tuple[str, ...], ...] = repeatable(
        "-s --share",
        "directory",
        read=lambda texts: tuple(tuple(text.split(",")) for text in texts),
        metavar="DIR,TAG",
        kind=Kind.FILE_WITH_DETAILS,
    )


def test_a_declaration_is_all_that_an_option_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Help, command line, configuration and value follow from it."""
    more, seen = declared(More), dict[str, object]()
    monkeypatch.setattr(options, "OPTIONS", more)

    @click.command
    @guest_options
    def takes(**asked: object) -> None:
        seen.update({name: more[name].value(asked[name]) for name in ("flavour", "places")})

    with click.Context(takes) as context:
        text = takes.get_help(context)
    assert re.search(r"--flavour \[a\|b\] +how  \[default: a\]", text)
    assert re.search(r"-s, --share DIR,TAG +directory\n", text)
    takes.main(["-s", "/x,one", "--share=/y,two"], standalone_mode=False)
    assert seen == {"flavour": "a", "places": (("/x", "one"), ("/y", "two"))}
    path = tmp_path / "guest.toml"
    path.write_text("flavour = 'b'\nshare = ['x,one', '/y,two']\n")
    takes.main(["--config", str(path)], standalone_mode=False)
    assert seen == {"flavour": "b", "places": ((f"{tmp_path}/x", "one"), ("/y", "two"))}


def test_token_profiles_are_the_generations_of_tokens() -> None:
    """The package vm does not import the package token."""
    assert list(OPTIONS["token_profile"].choices) == list(Generation)


def test_p_publishes_a_port_or_adds_parameters() -> None:
    """As docker's -p and as kvmtool's, by the form of the value."""
    words = ["-p", "8080:80", "-p8081:81/udp", "-p", "quiet", "--force-pci"]
    shown = tomllib.loads(verb("config", "show", "--set", *words).output)
    assert shown == {"publish": ["8080:80", "8081:81/udp"], "params": "quiet", "force-pci": True}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("run -- true", "a command requires the agent of the guest's image"),
        ("run --", "Give a command after --"),
        ("run -w /src", "--env and --workdir are for a command"),
        ("run -e A=B", "--env and --workdir are for a command"),
        ("run -e A -- true", "--env A: give NAME=VALUE"),
        ("run -v .:src", "--volume .:src: give DIR:PATH"),
        ("run -v .:/src --no-agent", "--volume requires the agent"),
        ("run --publish 80", "--publish 80: give HOST_PORT:GUEST_PORT"),
    ],
)
def test_mistake_in_a_command_is_one_line(line: str, complaint: str) -> None:
    """Reported before anything is started."""
    ended = verb(*line.split())
    assert (ended.code, ended.output, ended.errors.count("\n")) == (2, "", 1)
    assert complaint in ended.errors
