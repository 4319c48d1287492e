"""Options of a guest as Python gives them, and as the command line takes them."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from pyvmm.arch.errors import UserError
from pyvmm.vm.declare import Kind, Option
from pyvmm.vm.options import OPTIONS

#: What an option may be given; a list for one that may be repeated.
Value = str | Path | int | float | bool | Sequence[str | Path] | None


def arguments(options: Mapping[str, Value]) -> list[str]:
    """Return the command line for options by their long names, with _ for -.

    >>> arguments({"mem": "1G", "realm": True, "disk": ["a.img", "b.img,ro"], "rng": False})
    ['--mem', '1G', '--realm', '--disk', 'a.img', '--disk', 'b.img,ro']

    Raises:
        UserError: there is no such option, or it does not take such a value.
    """
    known = {each.flag.removeprefix("--").replace("-", "_"): each for each in OPTIONS.values()}
    words: list[str] = []
    for name, value in options.items():
        option = known.get(name)
        if option is None:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "pyvmm run --help lists the options"
            raise UserError(f"unknown option {name}: {hint}")
        words += _words(name, option, value)
    return words


def _words(name: str, option: Option, value: Value) -> Iterator[str]:
    if value is None:
        return
    if option.kind is Kind.SWITCH:
        if not isinstance(value, bool):
            raise UserError(f"{name} = {value!r}: give True or False")
        yes, _, no = option.flags[-1].partition("/")
        if value or no:
            yield yes if value else no
        return
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if isinstance(value, bool) or (len(values) != 1 and not option.is_repeatable):
        raise UserError(f"{name} = {value!r}: give one value")
    for each in values:
        yield from (option.flag, str(each))
