"""Run verbs in this process, which is faster than starting a program."""

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from pyvmm.cli import main
from pyvmm.cli.common import owner
from tests.boot.command import Ended


def verb(*arguments: str) -> Ended:
    """Run a verb to its end."""
    out, errors, before = io.StringIO(), io.StringIO(), os.times()
    code: object = None
    with (
        patch.object(sys, "argv", ["pyvmm", *arguments]),
        patch.object(owner, "confine"),  # this process, which runs other tests
        redirect_stdout(out),
        redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    after = os.times()
    cpu_time = after.user + after.system - before.user - before.system
    assert isinstance(code, int)
    return Ended(code, out.getvalue(), errors.getvalue(), cpu_time)
