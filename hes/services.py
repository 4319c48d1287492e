"""The calls of the HES: their inputs, checks and outputs.

A function takes the HES, the caller's power cycle and the inputs, and returns the outputs.  It
checks everything before it changes anything.
Spec: TF-M, "RSE communication design", measured boot and delegated attestation partitions; Islet
for the virtual HUKs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from hes import keys, lifecycle
from hes.errors import PsaError
from hes.hes import Hes
from hes.mailbox import Call
from hes.measured_boot import HASH_NAMES, HASHES, BootEvent, Measurement
from hes.otp import Otp
from hes.power_cycle import PowerCycle
from pyvmm.arch.bits import Layout
from pyvmm.arch.islet import VhukId
from pyvmm.arch.psa import (
    ECC_FAMILY_SECP_R1,
    MAX_PAYLOAD,
    DelegatedAttestation,
    ExtendIn,
    HesService,
    MeasuredBoot,
    PsaHandle,
    PsaHash,
    PsaStatus,
    ReadIn,
    ReadOut,
    Vhuk,
)
from pyvmm.token.generations import Generation

Outputs = tuple[bytes, ...]
Inputs = tuple[bytes, ...]
Function = Callable[[Hes, PowerCycle, Inputs], Outputs]
L = TypeVar("L", bound=Layout)


@dataclass(frozen=True, slots=True)
class Service:
    """A call: its number of inputs, its number of outputs, and its function."""

    num_inputs: int
    num_outputs: int
    function: Function


SERVICES: Final[dict[tuple[int, int], Service]] = {}


def service(
    handle: PsaHandle, call: int, num_inputs: int, num_outputs: int = 1
) -> Callable[[Function], Function]:
    """Declare a call."""

    def declare(function: Function) -> Function:
        SERVICES[handle, call] = Service(num_inputs, num_outputs, function)
        return function

    return declare


def serve(hes: Hes, cycle: PowerCycle, call: Call) -> Outputs:
    """Perform a call.

    Raises: PsaError.
    """
    found = SERVICES.get((call.handle, call.type))
    if found is None:
        raise PsaError(PsaStatus.NOT_SUPPORTED)
    if len(call.inputs) != found.num_inputs or len(call.limits) < found.num_outputs:
        raise PsaError(PsaStatus.PROGRAMMER_ERROR)
    return found.function(hes, cycle, call.inputs)


def _layout(kind: type[L], data: bytes) -> L:
    if len(data) != kind.size:
        raise PsaError(PsaStatus.PROGRAMMER_ERROR)
    return kind(data)


def _u32(data: bytes) -> int:
    if len(data) != 4:
        raise PsaError(PsaStatus.PROGRAMMER_ERROR)
    return int.from_bytes(data, "little")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PsaError(PsaStatus.INVALID_ARGUMENT) from None


def _hash(number: int) -> PsaHash:
    algorithm = PsaHash(number)
    if algorithm not in HASHES:
        raise PsaError(PsaStatus.INVALID_ARGUMENT)
    return algorithm


# --- measured boot -----------------------------------------------------------------------------


@service(PsaHandle.MEASURED_BOOT, MeasuredBoot.READ, num_inputs=1, num_outputs=3)
def read(_hes: Hes, cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Read a slot."""
    (what,) = inputs
    request = _layout(ReadIn, what)
    slot = cycle.boot.read(request.index)
    sw_type, version = slot.sw_type.encode(), slot.version.encode()
    if len(sw_type) > request.sw_type_size or len(version) > request.version_size:
        raise PsaError(PsaStatus.BUFFER_TOO_SMALL)
    out = ReadOut.of(
        is_locked=slot.is_locked,
        algorithm=slot.algorithm,
        sw_type=sw_type,
        sw_type_size=len(sw_type),
        version=version,
        version_size=len(version),
    )
    return bytes(out), slot.signer_id, slot.value


@service(PsaHandle.MEASURED_BOOT, MeasuredBoot.EXTEND, num_inputs=4, num_outputs=0)
def extend(_hes: Hes, cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Extend a slot."""
    what, signer_id, version, digest = inputs
    request = _layout(ExtendIn, what)
    if request.sw_type_size > ExtendIn.sw_type.struct.size:
        raise PsaError(PsaStatus.INVALID_ARGUMENT)
    sw_type = _text(request.sw_type[: request.sw_type_size])
    measurement = Measurement(
        PsaHash(request.algorithm), digest, signer_id, _text(version), sw_type
    )
    cycle.extend(request.index, measurement, lock=request.lock != 0)
    return ()


# --- delegated attestation ---------------------------------------------------------------------


@service(PsaHandle.DELEGATED_ATTESTATION, DelegatedAttestation.GET_KEY, num_inputs=3)
def get_key(_hes: Hes, cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Return the private realm attestation key, for an RMM that signs by itself."""
    curve, bits, algorithm = inputs
    if len(curve) != 1:
        raise PsaError(PsaStatus.PROGRAMMER_ERROR)
    chosen = _hash(_u32(algorithm))
    if curve[0] != ECC_FAMILY_SECP_R1:
        raise PsaError(PsaStatus.INVALID_ARGUMENT)
    if _u32(bits) != 8 * keys.SCALAR_SIZE:
        raise PsaError(PsaStatus.NOT_SUPPORTED)
    return (cycle.give_rak(chosen),)


@service(PsaHandle.DELEGATED_ATTESTATION, DelegatedAttestation.GET_TOKEN, num_inputs=1)
def get_token(_hes: Hes, cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Return a platform token for the realm attestation key with this hash."""
    (challenge,) = inputs
    return (cycle.platform_token(challenge),)


@service(PsaHandle.DELEGATED_ATTESTATION, DelegatedAttestation.SIGN_HASH, num_inputs=2)
def sign_hash(_hes: Hes, cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Sign a digest with the realm attestation key."""
    algorithm, digest = inputs
    chosen = _hash(_u32(algorithm))
    if len(digest) != HASHES[chosen]().digest_size:
        raise PsaError(PsaStatus.INVALID_ARGUMENT)
    return (cycle.sign(chosen, digest),)


@service(PsaHandle.DELEGATED_ATTESTATION, DelegatedAttestation.GET_PUBLIC_KEY, num_inputs=0)
def get_public_key(_hes: Hes, cycle: PowerCycle, _inputs: Inputs) -> Outputs:
    """Return the public realm attestation key."""
    return (keys.public_bytes(cycle.rak()),)


@service(PsaHandle.VHUK, Vhuk.GET, num_inputs=1)
def get_vhuk(_hes: Hes, cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Return a virtual HUK."""
    (which,) = inputs
    if len(which) != 1:
        raise PsaError(PsaStatus.PROGRAMMER_ERROR)
    if which[0] not in list(VhukId):
        raise PsaError(PsaStatus.INVALID_ARGUMENT)
    return (cycle.vhuk_a() if which[0] == VhukId.VHUK_A else cycle.vhuk_m(),)


# --- the HES service: outputs are text, either one line or JSON ----------------------------------


@service(PsaHandle.HES, HesService.POWER_ON, num_inputs=1)
def power_on(hes: Hes, cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Let the machine leave reset, with tokens of a generation; return a notice for the user."""
    (generation,) = inputs
    name = _text(generation)
    if name not in list(Generation):
        raise PsaError(PsaStatus.INVALID_ARGUMENT, f"{name!r} is not a token profile")
    notice = hes.power_on(cycle, Generation(name))  # it contains a path
    return (notice.encode(errors="surrogateescape"),)


@service(PsaHandle.HES, HesService.STATUS, num_inputs=0)
def status(hes: Hes, _cycle: PowerCycle, _inputs: Inputs) -> Outputs:
    """Return the state of the HES and the machines that it serves."""
    otp = hes.store.load() or Otp()
    cpak = keys.derive_cpak(otp.guk, otp.boot_hash) if otp.guk else None
    shown = {
        "directory": str(hes.store.directory),
        "lifecycle": lifecycle.name(otp.lifecycle),
        "successors": sorted(map(lifecycle.name, lifecycle.TRANSITIONS[otp.lifecycle])),
        "counters": dict(otp.counters),
        "machines": [cycle.pid for cycle in hes.cycles if cycle.is_on],
        "implementation_id": otp.implementation_id.hex(),
        "instance_id": keys.instance_id(cpak).hex() if cpak else "",
        "config": otp.config.hex(),
        "verification_service": otp.verification_service,
        "cpak": keys.public_bytes(cpak).hex() if cpak else "",
    }
    return (_json(shown).encode(),)


@service(PsaHandle.HES, HesService.LOG, num_inputs=2)
def log(hes: Hes, cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Return the part of a machine's event log that fits, from an event on; 0 is the caller."""
    pid, first = inputs
    wanted, at = _u32(pid), _u32(first)
    if wanted:
        found = [other for other in hes.cycles if other.pid == wanted and other.is_on]
        if not found:
            line = f"process {wanted} has no running machine: pyvmm hes status lists all"
            raise PsaError(PsaStatus.DOES_NOT_EXIST, line)
        cycle = found[0]
    lines = []
    size = len("[]")
    for event in cycle.boot.events[at:]:
        line = _json(_shown(event))
        size += len(line) + len(", ")
        if size > MAX_PAYLOAD:
            break
        lines.append(line)
    return (f"[{', '.join(lines)}]".encode(),)


def _json(value: object) -> str:
    import json  # noqa: PLC0415  not needed to boot a machine

    return json.dumps(value)


def _shown(event: BootEvent) -> Mapping[str, object]:
    measurement = event.measurement
    return {
        "slot": event.index,
        "sw_type": measurement.sw_type,
        "version": measurement.version,
        "signer_id": measurement.signer_id.hex(),
        "algorithm": HASH_NAMES[measurement.algorithm],
        "digest": measurement.digest.hex(),
        "value": event.value.hex(),
        "is_locked": event.is_locked,
    }


@service(PsaHandle.HES, HesService.PROVISION, num_inputs=1)
def provision(hes: Hes, _cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Accept a provisioning bundle; return the lifecycle state after it."""
    (bundle,) = inputs
    return (lifecycle.name(hes.provision(bundle).lifecycle).encode(),)


@service(PsaHandle.HES, HesService.SET_LIFECYCLE, num_inputs=1)
def set_lifecycle(hes: Hes, _cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Change the lifecycle state; return the new one."""
    (state,) = inputs
    name = _text(state)
    chosen = lifecycle.STATES.get(name)
    if chosen is None:
        line = f"{name!r} is not a lifecycle state: pyvmm hes lifecycle lists the next ones"
        raise PsaError(PsaStatus.INVALID_ARGUMENT, line)
    return (lifecycle.name(hes.set_lifecycle(chosen).lifecycle).encode(),)


@service(PsaHandle.HES, HesService.ADVANCE_COUNTER, num_inputs=2)
def advance_counter(hes: Hes, _cycle: PowerCycle, inputs: Inputs) -> Outputs:
    """Advance a non-volatile counter; return its value."""
    counter, value = inputs
    number = _u32(value)
    return (str(hes.advance(_text(counter), number).counters[_text(counter)]).encode(),)
