"""A HES in this process, called with the bytes of the mailbox."""

from pathlib import Path
from typing import NamedTuple

from hes.hes import Hes
from hes.image import installation
from hes.mailbox import answer
from hes.services import serve
from pyvmm.arch.psa import (
    MAX_PAYLOAD,
    MAX_VECTORS,
    Control,
    DelegatedAttestation,
    ExtendIn,
    HesService,
    MeasuredBoot,
    PsaHandle,
    PsaHash,
    PsaReply,
    PsaRequest,
    PsaStatus,
)
from pyvmm.token.cose import Sign1
from pyvmm.token.generations import Generation
from pyvmm.token.make import binding

SIGNER = b"s" * 32


class Answer(NamedTuple):
    """A parsed reply."""

    status: PsaStatus
    outputs: tuple[bytes, ...]

    @property
    def text(self) -> str:
        """The line of text in the reply."""
        return self.outputs[0].decode() if self.outputs else ""


def request(
    handle: int, call: int, inputs: tuple[bytes, ...], limits: tuple[int, ...], seq_num: int = 0
) -> bytes:
    """Return a request."""
    sizes = (*map(len, inputs), *limits)
    head = PsaRequest.of(
        seq_num=seq_num,
        handle=handle,
        ctrl=Control.of(TYPE=call, IN_LEN=len(inputs), OUT_LEN=len(limits)),
        io_size=(*sizes, *(0,) * (MAX_VECTORS - len(sizes))),
    )
    return bytes(head) + b"".join(inputs)


def parse_reply(reply: bytes) -> Answer:
    """Parse a reply; its sizes must match."""
    head, rest = PsaReply(reply[: PsaReply.size]), reply[PsaReply.size :]
    assert sum(head.out_size) == len(rest)
    outputs = []
    for size in head.out_size:
        outputs.append(rest[:size])
        rest = rest[size:]
    while outputs and not outputs[-1]:
        outputs.pop()
    assert head.status in list(PsaStatus)
    return Answer(PsaStatus(head.status), tuple(outputs))


class Rig:
    """A HES and one machine."""

    def __init__(
        self, directory: Path, root: Path | None = None, security_version: int = 1
    ) -> None:
        self.hes = Hes(directory, root or installation(), security_version)
        self.cycle = self.hes.connect(pid=1)

    def send(self, message: bytes) -> bytes:
        """Send a message, return the reply."""
        return answer(message, lambda call: serve(self.hes, self.cycle, call))

    def call(
        self, handle: PsaHandle, call: int, *inputs: bytes, limits: tuple[int, ...] | None = None
    ) -> Answer:
        """Perform a call; by default, the number and size of the outputs are not limited."""
        if limits is None:
            limits = (MAX_PAYLOAD,) * (MAX_VECTORS - len(inputs))
        return parse_reply(self.send(request(handle, call, inputs, limits)))

    def ask(self, service: HesService, *inputs: bytes) -> Answer:
        """Call the HES service."""
        return self.call(PsaHandle.HES, service, *inputs)

    def reset(self) -> None:
        """Begin another power cycle."""
        self.hes.disconnect(self.cycle)
        self.cycle = self.hes.connect(pid=1)

    def power_on(self, generation: Generation = Generation.G1) -> Answer:
        """Leave reset."""
        return self.ask(HesService.POWER_ON, generation.encode())

    def extend(self, index: int, digest: bytes = b"d" * 32, *, lock: bool = False) -> PsaStatus:
        """Extend a slot."""
        what = ExtendIn.of(
            index=index, lock=lock, algorithm=PsaHash.SHA_256, sw_type=b"RMM", sw_type_size=3
        )
        inputs = (bytes(what), SIGNER, b"1.0", digest)
        return self.call(PsaHandle.MEASURED_BOOT, MeasuredBoot.EXTEND, *inputs).status

    def attest(self, call: DelegatedAttestation, *inputs: bytes) -> Answer:
        """Call the delegated attestation service."""
        return self.call(PsaHandle.DELEGATED_ATTESTATION, call, *inputs)

    def rak(self) -> bytes:
        """Return the public realm attestation key."""
        answer = self.attest(DelegatedAttestation.GET_PUBLIC_KEY)
        assert answer.status is PsaStatus.SUCCESS
        return answer.outputs[0]

    def token(self, generation: Generation = Generation.G1) -> Sign1:
        """Return the platform token."""
        answer = self.attest(DelegatedAttestation.GET_TOKEN, binding(self.rak(), generation))
        assert answer.status is PsaStatus.SUCCESS
        return Sign1.parse(answer.outputs[0])
