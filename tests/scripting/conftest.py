"""The runtime directory of the tests of the command line."""

from tests.cli.conftest import runtime

__all__ = ["runtime"]
