"""The refusal of a HES call."""

from pyvmm.arch.psa import PsaStatus


class PsaError(Exception):
    """A call refused with a status; ``text`` is one line for the user, or empty."""

    def __init__(self, status: PsaStatus, text: str = "") -> None:
        super().__init__(status.name, text)
        self.status = status
        self.text = text
