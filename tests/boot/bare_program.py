"""Programs at EL2, and the realm that they make, compiled from tests/boot/programs/el2."""

import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent / "programs/el2"
#: Without floating point, which nothing has enabled; aligned: without stage 1, memory is a device.
COMPILE = (
    *(sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-freestanding-none"),
    *("-mcpu=generic+el3-neon-fp_armv8", "-mstrict-align", "-ffreestanding", "-nostdlib"),
    *("-static", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=undefined"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
)


def compile_realm(directory: Path, source: str = "realm.c") -> Path:
    """Compile a realm's program to a flat binary in ``directory``; return it."""
    elf, image = directory / "realm.elf", directory / "realm.bin"
    _link("realm.lds", elf, "realm_start.S", source)
    objcopy = (sys.executable, "-m", "ziglang", "objcopy", "-O", "binary")
    subprocess.run([*objcopy, elf, image], check=True)
    return image


def compile_host(directory: Path, *sources: str, **constants: int) -> Path:
    """Compile a program at EL2 that contains the realm of ``directory``; return its ELF file."""
    elf = directory / f"{Path(sources[0]).stem}.elf"
    defined = [f"-D{name}={value}" for name, value in constants.items()]
    _link("el2.lds", elf, "start.S", "realm_image.S", *sources, f"-I{directory}", *defined)
    return elf


def _link(script: str, target: Path, *arguments: str) -> None:
    command = (*COMPILE, "memory.c", *arguments, f"-Wl,-T,{script}", "-o", str(target))
    subprocess.run(command, cwd=SOURCES, check=True)
