"""The texts that the ports of a guest are read from."""

from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.port_options import PortOptions, parse_ports


def test_ports_have_names_and_sockets() -> None:
    """A path is absolute, because an instance has another working directory."""
    ports = parse_ports(["a.b-c_0=some=thing", "other=/run/socket"])
    assert ports == (
        PortOptions("a.b-c_0", Path("some=thing").absolute()),
        PortOptions("other", Path("/run/socket")),
    )


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["name"], "give the path of a socket"),
        (["=path"], "give NAME=SOCKET"),
        (["a/b=path"], "give NAME=SOCKET"),
        (["a" * 65 + "=path"], "give NAME=SOCKET"),
        (["a=" + "x" * 108], "at most 107 bytes"),
        (["a=p", "a=q"], "occurs twice"),
        (["a=p", "b=./p"], "occurs twice"),
        ([f"a{number}=p{number}" for number in range(9)], "9 ports given; the limit is 8"),
    ],
)
def test_a_port_that_cannot_be_is_a_line(texts: list[str], complaint: str) -> None:
    """With the value, and what to give."""
    with pytest.raises(UserError, match=complaint):
        parse_ports(texts)
