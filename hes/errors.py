"""How a call of the HES is refused."""

from pyvmm.arch.psa import PsaStatus


class PsaError(Exception):
    """A call is refused with a status; ``text`` is one line for a user, or empty."""

    def __init__(self, status: PsaStatus, text: str = "") -> None:
        super().__init__(status.name, text)
        self.status = status
        self.text = text
