"""Check, before a guest boots, whether it could run a program in a tree of files."""

import stat
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.vm.images.elf import open_elf
from pyvmm.vm.images.ext4 import Tree

_MAX_SCRIPTS: Final = 4  # scripts whose interpreters are scripts again; the limit in Linux


class ProgramFile:
    """A file of a tree, given by its path in the tree."""

    def __init__(self, tree: Tree, path: str, depth: int = 0) -> None:
        self._tree = tree
        self._path = path
        self._depth = depth

    def check(self) -> None:
        """Check that a guest could run it.

        Raises:
            UserError: it could not; the message says what is missing.
        """
        data = self._read()
        if data.startswith(b"#!"):
            self._check_script(data)
        elif data.startswith(b"\x7fELF"):
            self._check_elf(data)
        else:
            raise UserError(
                f"{self._path} is not a program: give an ELF file or a script that begins with #!"
            )

    def _read(self) -> bytes:
        place = self._tree.resolve(self._path)
        entry = None if place is None else self._tree.entries.get(place)
        if entry is None or entry.source is None:
            raise UserError(
                f"{self._path} is not a file in the directory: give the path of a program"
            )
        if not entry.mode & stat.S_IXUSR:
            raise UserError(f"{self._path} is not executable: chmod +x it")
        return entry.source.read_bytes()

    def _check_script(self, data: bytes) -> None:
        words = data[2 : data.find(b"\n") % (len(data) + 1)].decode(errors="replace").split()
        if not words or self._depth == _MAX_SCRIPTS:
            raise UserError(f"{self._path} names no interpreter in its first line")
        self._require(words[0], "the interpreter")
        ProgramFile(self._tree, words[0], self._depth + 1).check()

    def _require(self, path: str, what: str) -> None:
        place = self._tree.resolve(path)
        if place is None or place not in self._tree.entries:
            raise UserError(
                f"{self._path} needs {what} {path}, which is missing in the directory: copy it"
                " there, or link the program statically"
            )

    def _check_elf(self, data: bytes) -> None:
        from elftools.elf.dynamic import DynamicSegment  # noqa: PLC0415  slow to import
        from elftools.elf.segments import InterpSegment  # noqa: PLC0415

        needed: list[str] = []
        interpreter = ""
        with open_elf(data, self._path) as elf:
            for segment in elf.iter_segments():
                if isinstance(segment, InterpSegment):
                    interpreter = segment.get_interp_name()
                if isinstance(segment, DynamicSegment):
                    needed = [
                        str(getattr(tag, "needed", "")) for tag in segment.iter_tags("DT_NEEDED")
                    ]
        if interpreter:
            self._require(interpreter, "the dynamic linker")
            present = {path.name for path in self._tree.entries}
            for library in needed:
                if library not in present:
                    self._require(library, "the library")
