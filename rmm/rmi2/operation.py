"""RMI_OP_*: the host continues an operation, lends it memory, takes memory back, or cancels it."""

from collections.abc import Iterator, Sequence

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RmiStatus
from pyvmm.arch.rmi2 import CONTINUE_FLAGS, MAX_BLOCKS, MemoryState, OpMemory, Rmi2Fid
from pyvmm.arch.stage2 import PAGE_LEVEL
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DELEGATED
from rmm.operation import Operation
from rmm.rmi2.addresses import decode, encode, read_list, room, write_list
from rmm.rmm import Rmm


def _find(rmm: Rmm, handle: int) -> Operation:
    operation = rmm.operations.get(handle)
    if operation is None:
        raise RmiError(RmiStatus.ERROR_INPUT)
    return operation


@rmi_command(Rmi2Fid.RMI_OP_CONTINUE)
def op_continue(rmm: Rmm, handle: int, flags: int) -> None:
    """Finish an operation that has or has returned all memory; the outputs are the command's.

    Spec: DEN0137 2.0, RMI_OP_CONTINUE.
    Raises: RmiError(ERROR_INPUT) if the operation does not exist or expects something else, or a
    flag is unknown; or as the command that began it, after (INCOMPLETE) if memory must be returned
    first.
    """
    operation = _find(rmm, handle)
    operation.require(OpMemory.NONE)
    if flags & ~CONTINUE_FLAGS:
        raise RmiError(RmiStatus.ERROR_INPUT)
    operation.proceed()


@rmi_command(Rmi2Fid.RMI_OP_MEM_DONATE)
def op_mem_donate(
    rmm: Rmm, handle: int, list_ptr: int, list_count: int, flags: int
) -> tuple[int, ...]:
    """Lend granules to an operation: all that a list names, not more than are missing.

    Outputs, with INCOMPLETE: how many it took, what is missing.
    Spec: DEN0137 2.0, RMI_OP_MEM_DONATE.
    Raises: RmiError(ERROR_INPUT) if the operation does not exist or expects something else, the
    list is not the host's, a descriptor is not one of granules, a granule is not DELEGATED or
    named twice, or there are too many.
    """
    del flags  # their meaning is not known; hosts give 0
    operation = _find(rmm, handle)
    operation.require(OpMemory.DONATE)
    granules: list[int] = []
    for descriptor in read_list(rmm, list_ptr, list_count):
        part = decode(descriptor)
        is_allowed = part.level == PAGE_LEVEL and part.state == MemoryState.DELEGATED
        if not is_allowed or len(granules) + part.num_blocks > operation.missing:
            raise RmiError(RmiStatus.ERROR_INPUT)
        granules += range(part.pa, part.pa + part.size, GRANULE_SIZE)
    for pa in granules:
        if rmm.granules.count(pa, DELEGATED, 1) == 0:
            raise RmiError(RmiStatus.ERROR_INPUT)
    if len(set(granules)) != len(granules):
        raise RmiError(RmiStatus.ERROR_INPUT)
    operation.donate(granules)


@rmi_command(Rmi2Fid.RMI_OP_MEM_RECLAIM)
def op_mem_reclaim(rmm: Rmm, handle: int, list_ptr: int, list_count: int) -> tuple[int, ...]:
    """Take memory back from an operation: it is DELEGATED, and a list says what it is.

    Outputs, with INCOMPLETE: the number of descriptors in the list, zero.
    Spec: DEN0137 2.0, RMI_OP_MEM_RECLAIM.
    Raises: RmiError(ERROR_INPUT) if the operation does not exist, the list is not the host's, or
    the operation expects something else.
    """
    operation = _find(rmm, handle)
    read_list(rmm, list_ptr, 0)
    operation.require(OpMemory.RECLAIM)
    descriptors: list[int] = []
    count = 0
    for pa, length in _rows(operation.donated):
        if len(descriptors) == min(list_count, room(list_ptr)):
            break
        descriptors.append(encode(pa, PAGE_LEVEL, length, MemoryState.DELEGATED))
        count += length
    write_list(rmm, list_ptr, descriptors)
    operation.give_back(count, len(descriptors))


def _rows(granules: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first granule of those in a row, and how many these are."""
    first, length = 0, 0
    for pa in granules:
        if length and (pa != first + length * GRANULE_SIZE or length == MAX_BLOCKS):
            yield first, length
            length = 0
        first = first if length else pa
        length += 1
    if length:
        yield first, length


@rmi_command(Rmi2Fid.RMI_OP_CANCEL)
def op_cancel(rmm: Rmm, handle: int) -> None:
    """Give up an operation that creates an object: it returns its memory, and then fails.

    The result is INCOMPLETE; the operation ends with RMI_OP_CONTINUE, which fails with ERROR_INPUT.
    Spec: DEN0137 2.0, RMI_OP_CANCEL.
    Raises: RmiError(ERROR_INPUT) if the operation does not exist or cannot be cancelled.
    """
    _find(rmm, handle).cancel()
