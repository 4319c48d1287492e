"""pyvmm: a command-line VMM that boots arm64 guests, in a realm or not.

Programs use ``pyvmm.realm``, ``pyvmm.normal_vm`` and ``pyvmm.verify`` (docs/python.md), which are
loaded when they are first used.
"""

from importlib import import_module

__version__ = "0.1.0"

_SCRIPTING = {
    "Completed": "guest",
    "Failure": "errors",
    "Guest": "guest",
    "Report": "verification",
    "UserError": "errors",
    "attach": "guest",
    "normal_vm": "guest",
    "realm": "guest",
    "verify": "verification",
}


def __getattr__(name: str) -> object:
    if name not in _SCRIPTING:
        raise AttributeError(f"module 'pyvmm' has no attribute {name!r}")
    return getattr(import_module(f"pyvmm.scripting.{_SCRIPTING[name]}"), name)
