"""Guests for asyncio: the same methods, awaited; each runs in a thread meanwhile.

::

    async with aio.realm(kernel="Image", initrd="initrd.img") as guest:
        done = await guest.exec(["uname", "-a"])
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pyvmm.scripting import guest as sync
from pyvmm.scripting.execution import Completed
from pyvmm.scripting.options import Value
from pyvmm.vm.control.api import Statistics, Status

_PATIENCE = 60.0


def realm(
    kernel: str | Path | None = None, *, name: str | None = None, **options: Value
) -> "AsyncGuest":
    """Return a realm, like ``pyvmm.realm``."""
    return AsyncGuest(sync.realm(kernel, name=name, **options))


def normal_vm(
    kernel: str | Path | None = None, *, name: str | None = None, **options: Value
) -> "AsyncGuest":
    """Return a normal VM, like ``pyvmm.normal_vm``."""
    return AsyncGuest(sync.normal_vm(kernel, name=name, **options))


def attach(name: str) -> "AsyncGuest":
    """Return an instance that exists already, like ``pyvmm.attach``."""
    return AsyncGuest(sync.attach(name))


class AsyncGuest:
    """An instance; see ``Guest`` for the methods."""

    def __init__(self, guest: sync.Guest) -> None:
        self._guest = guest

    @property
    def name(self) -> str:
        """The name of the instance."""
        return self._guest.name

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._guest.__enter__)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._guest.destroy)

    async def pause(self) -> None:
        """Pause every vCPU."""
        await asyncio.to_thread(self._guest.pause)

    async def resume(self) -> None:
        """Resume the vCPUs."""
        await asyncio.to_thread(self._guest.resume)

    async def stop(self) -> None:
        """Stop it at once and flush its disks."""
        await asyncio.to_thread(self._guest.stop)

    async def wait(self, timeout: float | None = None) -> int:  # noqa: ASYNC109  the thread's limit
        """Wait for its end; return the exit code."""
        return await asyncio.to_thread(self._guest.wait, timeout)

    async def status(self) -> Status:
        """Return its state."""
        return await asyncio.to_thread(lambda: self._guest.status)

    async def statistics(self) -> Statistics:
        """Return its counters and its use of resources."""
        return await asyncio.to_thread(self._guest.statistics)

    async def console(self) -> str:
        """Return the console's output so far."""
        return await asyncio.to_thread(self._guest.console)

    async def expect(
        self,
        pattern: str,
        timeout: float | None = _PATIENCE,  # noqa: ASYNC109  the thread's limit
    ) -> re.Match[str]:
        """Wait until the console shows a regular expression."""
        return await asyncio.to_thread(self._guest.expect, pattern, timeout)

    async def type(self, text: str | bytes) -> None:
        """Type on the console."""
        await asyncio.to_thread(self._guest.type, text)

    async def wait_agent(self, patience: float = _PATIENCE) -> None:
        """Wait for the guest's agent."""
        await asyncio.to_thread(self._guest.wait_agent, patience)

    async def exec(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002  the name in subprocess.run
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        timeout: float | None = None,  # noqa: ASYNC109  the thread's limit
        check: bool = True,
    ) -> Completed:
        """Run a command in the guest."""
        return await asyncio.to_thread(
            self._guest.exec, argv, input=input, env=env, cwd=cwd, timeout=timeout, check=check
        )

    async def attest(self, challenge: bytes, patience: float = _PATIENCE) -> bytes:
        """Return an attestation token."""
        return await asyncio.to_thread(self._guest.attest, challenge, patience)
