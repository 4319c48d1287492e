"""Turn failures of the layers below into an error line and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyvmm.arch.rmi import STATUS_MEANINGS, status_name
from pyvmm.host.rmi import RmiFailed
from pyvmm.vm.exit_code import ExitCode, Failure


@contextmanager
def refusals() -> Iterator[None]:
    """Turn an RMI error and a lack of memory into a failure."""
    try:
        yield
    except RmiFailed as error:
        meaning = STATUS_MEANINGS.get(error.status, "not a status of RMI")
        line = f"the RMM refused {error.fid.name}: {status_name(error.x0)}, {meaning}"
        raise Failure(ExitCode.REFUSED, line) from error
    except MemoryError as error:
        line = f"not enough memory for the guest ({error}): give less with -m"
        raise Failure(ExitCode.REFUSED, line) from error


@contextmanager
def storage_failures() -> Iterator[None]:
    """Turn an error of the host's storage into a failure with its consequence."""
    try:
        yield
    except OSError as error:
        line = (
            f"a disk could not be flushed ({error.strerror}): what the guest wrote last may be lost"
        )
        raise Failure(ExitCode.STORAGE, line) from error
