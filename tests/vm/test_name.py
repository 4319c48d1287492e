"""Valid and invalid names of instances."""

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.name import check_name


@pytest.mark.parametrize("name", ["r1", "web-1.example", "_", "a" * 64, "R1.sock", "r1.d"])
def test_names_that_can_be(name: str) -> None:
    """Letters, digits and three other characters are valid."""
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".", "..", ".a", "a/b", "a b", "é", "a" * 65, "a\n"])
def test_names_that_cannot_be(name: str) -> None:
    """Names that would be ambiguous in a path, an option or a table are invalid."""
    with pytest.raises(UserError, match="letters"):
        check_name(name)
