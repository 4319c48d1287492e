"""Generate the decoder, the dispatch list and the constants of the core from their declarations.

``a64.decode`` has the integer and system instructions, ``a64_fp.decode`` and ``a64_simd.decode``
the floating-point and Advanced SIMD ones.  Each line is one row::

    NAME  token token ...  ; flag flag=value ...

Tokens go from bit 31 down: runs of ``0`` and ``1``, ``x`` (ignored), or ``field:width``.  Flags:

==============  =================================================================================
``split=a,b``   one op for each value of these fields; the handler gets them as trailing constants
``decode=f``    ``bool decode_f(struct insn *, uint32_t word)`` fills the operands; false makes it
                UNDEFINED
``faults``      the handler returns bool: false when it raised an exception
``branch``      the handler returns the next ``struct insn *``
``indirect``    like ``branch``; NULL when it raised an exception.  It sets cpu->btype
``sys``         the handler returns ``enum step`` and may read cpu->pc (its own address)
``fp``          traps when FP access is disabled (every row of the FP and SIMD files has it)
``before=A,B``  deliberately overlaps these rows and is tried first
``pseudo``      it has no encoding: a decode function selects it
``alias``       it has no op: its decode function selects another row's
``emit``          its ``emit_<NAME>`` translates it; without one, translated code calls the handler
``feature=f``   only machines with this optional feature have it (``Feature`` of arch/sysregs.py)
==============  =================================================================================

Run ``python -m pyvmm.core.generate`` after a change; ``--check`` checks whether the files are
current.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from itertools import accumulate, product
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "gen"
SOURCES = {"base": "a64.decode", "fp": "a64_fp.decode", "simd": "a64_simd.decode"}
SUFFIXES = {".c", ".h", ".inc", ".decode"}
KINDS = ("faults", "branch", "indirect", "sys")
BUCKET_BITS = (*range(10, 14), *range(22, 30))
NUM_BUCKETS = 1 << len(BUCKET_BITS)
#: Internal ops of the interpreter, to which no word decodes.
PSEUDO_OPS = ("DECODE", "NEXT_PAGE", "REFETCH", "UNDEFINED", "DEBUG", "STEPPED", "HEAT", "JIT")


@dataclass(frozen=True)
class Row:
    """One row of a decode table: an encoding and its handling."""

    name: str
    unit: str
    mask: int
    bits: int
    fields: dict[str, tuple[int, int]]
    """Field name to (lsb, width)."""
    flags: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Return ``plain`` or one of KINDS."""
        return next((kind for kind in KINDS if kind in self.flags), "plain")

    @property
    def fp(self) -> bool:
        """Check whether the row traps when FP access is disabled."""
        return "fp" in self.flags or (self.unit != "base" and "nofp" not in self.flags)

    @property
    def split(self) -> tuple[str, ...]:
        """Return the fields that become constants of an op."""
        return tuple(filter(None, self.flags.get("split", "").split(",")))

    @property
    def ops(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return (op name, values of the split fields), in op order."""
        if "alias" in self.flags:
            return []
        ranges = [range(1 << self.fields[name][1]) for name in self.split]
        return [("_".join((self.name, *map(str, v))), v) for v in product(*ranges)]

    def matches(self, word: int) -> bool:
        """Check whether a word belongs to this row, ignoring overlaps."""
        return word & self.mask == self.bits

    def overlaps(self, other: Row) -> bool:
        """Check whether any word matches both rows."""
        common = self.mask & other.mask
        return self.bits & common == other.bits & common


class TableError(Exception):
    """A decode table is invalid; the text names file and row."""


def parse_row(unit: str, line: str) -> Row:
    """Parse one row; TableError if it does not cover 32 bits or lacks a field that it uses."""
    encoding, _, flag_text = line.partition(";")
    name, *tokens = encoding.split()
    flags = dict(flag.partition("=")[::2] for flag in flag_text.split())
    mask = bits = 0
    fields: dict[str, tuple[int, int]] = {}
    position = 32
    for token in tokens:
        if ":" in token:
            field_name, _, width = token.partition(":")
            position -= int(width)
            fields.setdefault(field_name, (position, int(width)))
            continue
        for char in token:
            position -= 1
            if char != "x":
                mask |= 1 << position
                bits |= int(char) << position
    if position and "pseudo" not in flags:
        raise TableError(f"{SOURCES[unit]}: {name} covers {32 - position} bits, not 32")
    row = Row(name, unit, mask, bits, fields, flags)
    if missing := [f for f in row.split if f not in fields]:
        raise TableError(f"{SOURCES[unit]}: {name} splits on {missing}, which it has not")
    return row


def load_rows() -> list[Row]:
    """Return all rows of the three tables; TableError on unmarked overlaps and duplicate names."""
    rows = []
    for unit, file in SOURCES.items():
        path = HERE / file
        for line in path.read_text().splitlines() if path.exists() else ():
            text = line.partition("#")[0].strip()
            if text:
                rows.append(parse_row(unit, text))
    check_rows(rows)
    return rows


def encodings(rows: list[Row]) -> list[Row]:
    """Return the rows with an encoding; rows to try first come first."""
    real = [row for row in rows if "pseudo" not in row.flags]
    return sorted(real, key=lambda row: -row.mask.bit_count())


def check_rows(rows: list[Row]) -> None:
    """Raise TableError for a duplicate name or an overlap that no ``before=`` allows."""
    names = [row.name for row in rows]
    if len(set(names)) != len(names):
        raise TableError(f"rows named twice: {sorted({n for n in names if names.count(n) > 1})}")
    ordered = encodings(rows)
    for index, row in enumerate(ordered):
        for other in ordered[index + 1 :]:
            if row.overlaps(other) and other.name not in row.flags.get("before", "").split(","):
                raise TableError(
                    f"{row.name} overlaps {other.name}: mark it before={other.name} or narrow it"
                )


def bucket_of(word: int) -> int:
    """Return the lookup bucket of a word: bits 29:22 and 13:10."""
    return (word >> 22 & 0xFF) << 4 | (word >> 10 & 0xF)


def bucket_lists(ordered: list[Row]) -> list[list[int]]:
    """Return, for each bucket, the indexes of the rows that its words can match."""
    lists: list[list[int]] = [[] for _ in range(NUM_BUCKETS)]
    for index, row in enumerate(ordered):
        mask, bits = bucket_of(row.mask), bucket_of(row.bits)
        for bucket in range(NUM_BUCKETS):
            if bucket & mask == bits:
                lists[bucket].append(index)
    return lists


def handler_call(row: Row, values: tuple[int, ...]) -> str:
    """Return the C expression that executes one op."""
    return f"exec_{row.name}({', '.join(('cpu', 'i', *map(str, values)))})"


def gen_ops(rows: list[Row]) -> str:
    """Return ops.h: the op numbers and the field extractors."""
    lines = ["#ifndef PYVMM_CORE_OPS_H", "#define PYVMM_CORE_OPS_H", ""]
    lines += ["enum op {", *(f"    OP_{op}," for op in PSEUDO_OPS)]
    lines += [f"    OP_{op}," for row in rows for op, _ in row.ops]
    lines += ["    NUM_OPS", "};", ""]
    for row in encodings(rows):
        for name, (lsb, width) in row.fields.items():
            lines.append(f"#define {row.name}_{name}(w) bits((w), {lsb}, {width})")
    return "\n".join([*lines, "", "#endif"])


def gen_dispatch(rows: list[Row]) -> str:
    """Return dispatch.h: A64_OPS(ON_PLAIN, ON_FAULTS, ...), one entry per op."""
    kinds = ("PLAIN", *map(str.upper, KINDS), "FP_PLAIN", "FP_FAULTS")
    lines = [f"#define A64_OPS({', '.join(f'ON_{kind}' for kind in kinds)})"]
    for row in rows:
        macro = "ON_" + ("FP_" if row.fp else "") + row.kind.upper()
        for op, values in row.ops:
            call = handler_call(row, values) if row.unit == "base" else f"op_{op}(cpu, i)"
            lines.append(f"    {macro}({op}, {call})")
    return " \\\n".join(lines)


def gen_calls(rows: list[Row]) -> str:
    """Return calls.h: prototypes of the decode functions and of the ops outside interp.c."""
    decoders = sorted({row.flags["decode"] for row in rows if "decode" in row.flags})
    lines = [f"bool decode_{name}(struct insn *i, uint32_t w);" for name in decoders]
    for row in rows:
        if row.unit != "base":
            lines += [f"{prototype(row, op)};" for op, _ in row.ops]
    lines += ["struct emit;"]
    lines += [
        f"void emit_op_{op}(struct emit *e, const struct insn *i);" for _, op, _ in emitted(rows)
    ]
    return "\n".join(lines)


def emitted(rows: list[Row]) -> list[tuple[Row, str, tuple[int, ...]]]:
    """Return the ops of the rows that have emitters."""
    return [(row, op, values) for row in rows if "emit" in row.flags for op, values in row.ops]


def gen_emitters(rows: list[Row]) -> list[str]:
    """Return each op that has an emitter as a function."""
    return [
        f"void emit_op_{op}(struct emit *e, const struct insn *i)"
        f" {{ emit_{row.name}({', '.join(('e', 'i', *map(str, values)))}); }}"
        for row, op, values in emitted(rows)
    ]


def gen_emit(rows: list[Row]) -> str:
    """Return emit.h: the emitters of the base instruction set, and the table of all."""
    lines = gen_emitters([row for row in rows if row.unit == "base"])
    lines += ["void (*const emitters[NUM_OPS])(struct emit *e, const struct insn *i) = {"]
    lines += [f"    [OP_{op}] = emit_op_{op}," for _, op, _ in emitted(rows)]
    return "\n".join([*lines, "};"])


def prototype(row: Row, op: str) -> str:
    """Return the C prototype of an op outside interp.c."""
    result = "bool" if row.kind == "faults" else "void"
    return f"{result} op_{op}(struct cpu *cpu, const struct insn *i)"


def gen_stubs(rows: list[Row]) -> str:
    """Return stubs_<unit>.h: each op as a function that calls its row's handler with constants."""
    lines = []
    for row in rows:
        for op, values in row.ops:
            back = "return " if row.kind == "faults" else ""
            lines.append(f"{prototype(row, op)} {{ {back}{handler_call(row, values)}; }}")
    return "\n".join(lines + gen_emitters(rows))


def gen_variant(row: Row) -> str:
    """Return the function that selects a row's op from the word's split fields."""
    index = ""
    for name in row.split:
        term = f"{row.name}_{name}(w)"
        index = f"({index} << {row.fields[name][1]} | {term})" if index else term
    first = row.ops[0][0]
    return f"static uint32_t variant_{row.name}(uint32_t w) {{ return OP_{first} + {index}; }}"


def gen_row(row: Row) -> str:
    """Return the initialiser of a row."""
    variant = f"variant_{row.name}" if row.split else "NULL"
    decode = f"decode_{row.flags['decode']}" if "decode" in row.flags else "NULL"
    op = row.ops[0][0] if row.ops else "UNDEFINED"
    feature = f"FEATURE_{row.flags['feature'].upper()}" if "feature" in row.flags else "0"
    return f"    {{{row.mask:#010x}, {row.bits:#010x}, OP_{op}, {feature}, {variant}, {decode}}},"


def gen_decode(rows: list[Row]) -> str:
    """Return decode.h: the rows, their op selectors and the bucket index."""
    ordered = encodings(rows)
    lists = bucket_lists(ordered)
    return "\n".join(
        [
            *(gen_variant(row) for row in ordered if row.split),
            "static const struct row rows[] = {",
            *map(gen_row, ordered),
            "};",
            number_table("bucket_rows", [index for entries in lists for index in entries]),
            number_table("bucket_start", list(accumulate(map(len, lists), initial=0))),
        ]
    )


def number_table(name: str, numbers: list[int]) -> str:
    """Return a C array of uint16_t."""
    text = [", ".join(map(str, numbers[k : k + 24])) for k in range(0, len(numbers), 24)]
    return f"static const uint16_t {name}[] = {{\n    " + ",\n    ".join(text or ["0"]) + "\n};"


def gen_names(rows: list[Row]) -> str:
    """Return names.h: the name of each op, for tools."""
    names = [*PSEUDO_OPS, *(op for row in rows for op, _ in row.ops)]
    return (
        "static const char *const op_names[] = {\n" + "".join(f'    "{n}",\n' for n in names) + "};"
    )


def outputs() -> dict[str, str]:
    """Return the texts of the generated files, by name."""
    rows = load_rows()
    texts = {
        "ops.h": gen_ops(rows),
        "dispatch.h": gen_dispatch(rows),
        "calls.h": gen_calls(rows),
        "decode.h": gen_decode(rows),
        "names.h": gen_names(rows),
        "emit.h": gen_emit(rows),
    }
    for unit in SOURCES:
        if unit != "base":
            texts[f"stubs_{unit}.h"] = gen_stubs([row for row in rows if row.unit == unit])
    # build.py loads this file outside the package
    from pyvmm.core import generate_constants, generate_sysregs  # noqa: PLC0415

    head = "/* Generated by pyvmm/core/generate.py from the decode tables; do not edit. */\n"
    return (
        {name: head + text + "\n" for name, text in texts.items()}
        | generate_constants.outputs()
        | generate_sysregs.outputs()
    )


def digest() -> str:
    """Return the hash of the core's sources; it is compiled in, to detect a stale build."""
    total = hashlib.sha256()
    for path in sorted(p for p in HERE.iterdir() if p.suffix in SUFFIXES and p.name != "_core.c"):
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def main(arguments: list[str]) -> int:
    """Write the generated files, or with --check report the stale ones."""
    OUT.mkdir(exist_ok=True)
    texts = outputs()
    stale = [
        name
        for name, text in texts.items()
        if not (OUT / name).exists() or (OUT / name).read_text() != text
    ]
    if "--check" in arguments:
        if stale:
            print(f"stale: {', '.join(stale)}; run python -m pyvmm.core.generate", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (OUT / name).write_text(texts[name])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
