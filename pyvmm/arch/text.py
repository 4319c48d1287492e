"""Text that began as bytes: of an argument or a file name, which need not be UTF-8.

Python keeps such bytes in a ``str`` as lone surrogates, from which ``os.fsencode`` makes them
again; but no JSON, no TOML and no terminal takes them.
"""


def is_unicode(text: str) -> bool:
    """Tell whether a text has no such bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    r"""Return a text with such bytes written out.

    >>> printable(b"caf\xe9".decode(errors="surrogateescape"))
    'caf\\xe9'
    """
    try:
        data = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte, as JSON can have it
        data = text.encode(errors="backslashreplace")
    return data.decode(errors="backslashreplace")
