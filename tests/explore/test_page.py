"""The page's script is what its sources compile to."""

from tools.page import COMPILED, compile_page


def test_the_committed_script_is_up_to_date() -> None:
    """The types are right, and `make gen` would change nothing."""
    assert compile_page() == COMPILED.read_bytes(), "run make gen"
