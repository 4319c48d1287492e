"""A user's Python files: trusted like any program that the user runs."""

import importlib.util
from pathlib import Path
from types import ModuleType

from pyvmm.arch.errors import UserError


def load_module(path: Path, remedy: str) -> ModuleType:
    """Run a user's file and return it as a module.

    Raises: UserError, with ``remedy`` if there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file: {remedy}")
    spec = importlib.util.spec_from_file_location("pyvmm_lab_user", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    return module
