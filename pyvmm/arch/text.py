"""Untrusted text made safe to display: from a guest, a peer, an argument or a file name.

It may contain terminal control sequences, or come from bytes that are not UTF-8.  Python keeps such
bytes in a ``str`` as lone surrogates, which ``os.fsencode`` converts back, but JSON, TOML and
terminals do not accept them.
"""

from typing import Final

_BYTES: Final = range(0xDC80, 0xDD00)  # surrogates that represent one byte each


def is_unicode(text: str) -> bool:
    """Check whether a text is free of bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    r"""Return one line with visible characters only.

    It escapes control characters (C0, DEL and C1), line ends, characters that change the display
    of other text, such as direction marks, and bytes that are not UTF-8.

    >>> printable("\x1b[31mred\x9b0m\n\u202eevil")
    '\\x1b[31mred\\x9b0m\\n\\u202eevil'
    >>> printable(b"caf\xe9".decode(errors="surrogateescape"))
    'caf\\xe9'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    if ord(character) in _BYTES:
        return f"\\x{ord(character) & 0xFF:02x}"
    return character.encode("unicode_escape").decode()


def defect() -> str:
    """Return the traceback of the current exception, which is a bug of ours."""
    import traceback  # noqa: PLC0415  slow to import, and rarely needed

    return "\n".join(map(printable, traceback.format_exc().splitlines()))


def printable_json(text: str) -> str:
    r"""Return the same JSON, with all invisible characters escaped except line ends.

    >>> printable_json('{\n "a": "\x7f\u202e"\n}')
    '{\n "a": "\\u007f\\u202e"\n}'
    """
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
