"""The host side of a guest's network: the requested backend, or one that this host has."""

import shutil

from pyvmm.arch.errors import UserError
from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.net_passt import open_passt
from pyvmm.devices.net_tap import TapBackend
from pyvmm.devices.virtio.net import NetBackend
from pyvmm.vm.option_values import NetworkOptions


def open_backend(network: NetworkOptions, loop: IoEvents) -> NetBackend:
    """Open the backend that carries the frames of a guest.

    Raises:
        UserError: this host does not have it, or it does not start.
    """
    if network.tap:
        return TapBackend(loop, network.tap)
    if network.backend == "passt":
        return open_passt(loop, network.forwards)
    if not network.backend and shutil.which("passt"):
        try:
            return open_passt(loop, network.forwards)
        except UserError as error:  # in a container it may lack permissions
            raise UserError(f"{error}; backend=slirp does not need passt") from None
    # Imported here, because its declarations are slow to parse.
    from pyvmm.devices.libslirp import is_installed  # noqa: PLC0415
    from pyvmm.devices.net_slirp import open_slirp  # noqa: PLC0415

    if not network.backend and not is_installed():
        raise UserError(
            "-n mode=user needs passt or libslirp: install the package passt or libslirp0,"
            " or give -n mode=tap"
        )
    return open_slirp(loop, network.forwards)
