"""The host side of a guest's network cards: the requested backend, or one that this host has."""

import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import connect_unix
from pyvmm.devices.ioloop import IoEvents, IoLoop
from pyvmm.devices.net_passt import open_passt
from pyvmm.devices.net_stream import StreamBackend
from pyvmm.devices.net_switch import Switch
from pyvmm.devices.net_tap import TapBackend
from pyvmm.devices.net_user import MTU
from pyvmm.devices.pcap import Capture
from pyvmm.devices.virtio.net import NetBackend, Record, VirtioNet, record_nothing
from pyvmm.vm.gdb.leftover import SocketNote, remove_dead
from pyvmm.vm.machine.outside import Outside
from pyvmm.vm.network_options import Mode, NetworkOptions
from pyvmm.vm.options import VmOptions

#: Of a network between guests; all of them must have the same.
_SOCKET_MTU: Final = 1500
_PATIENCE: Final = 5  # seconds for a peer to accept
_BACKLOG: Final = 16


def open_card(
    options: VmOptions,
    index: int,
    loop: IoLoop,
    resources: ExitStack,
    notify: Callable[[str], None],
    outside: Outside,
) -> VirtioNet:
    """Make a card of a guest with its backend, and its capture if it has one.

    ``resources`` gets what must be closed at the end; ``notify`` is called with a line if the
    capture fails.

    Raises:
        UserError: this host does not have the backend, or it does not start.
    """
    network = options.networks[index]
    is_bounced = options.realm is not None
    # In a realm, each pair of queues takes a share of a small pool.
    max_queues = 1 if is_bounced else options.num_cpus

    def make() -> NetBackend:
        try:
            return open_backend(network, loop, number=index, max_queues=max_queues)
        except UserError as error:
            if not network.is_optional:
                raise
            notify(f"the guest has no network: {error}")
            return _open_nothing(loop)

    backend = outside.card(index, make)
    resources.callback(backend.close)
    record: Record = record_nothing
    if network.capture is not None:
        capture = Capture(network.capture, notify)
        resources.callback(capture.close)
        record = capture.record
    set_timer = outside.set_timer(loop)
    return VirtioNet(
        backend, network.mac, is_bounced=is_bounced, set_timer=set_timer, record=record
    )


def open_backend(
    network: NetworkOptions, loop: IoEvents, *, number: int = 0, max_queues: int = 1
) -> NetBackend:
    """Open the backend that carries the frames of a guest.

    ``number`` is the card's among those of the guest.  It has at most ``max_queues`` queues, unless
    the options say how many.

    Raises:
        UserError: this host does not have it, or it does not start.
    """
    match network.mode:
        case Mode.TAP:
            return _open_tap(network, loop, max_queues)
        case Mode.SOCKET:
            return _open_socket(network, loop)
        case _:
            return _open_user(network, loop, number)


def _open_tap(network: NetworkOptions, loop: IoEvents, max_queues: int) -> TapBackend:
    backend = TapBackend(loop, network.tap, network.num_queues or max_queues)
    problem = ""
    if backend.num_queues < network.num_queues:
        problem = (
            f"-n mq={network.num_queues}: {network.tap} has {backend.num_queues} queue: omit mq, or"
            f" create the interface with: ip tuntap add {network.tap} mode tap multi_queue"
        )
    if backend.mtu < network.mtu:
        problem = (
            f"-n mtu={network.mtu}: {network.tap} has {backend.mtu}: give at most that, or change"
            f" the interface with: ip link set {network.tap} mtu {network.mtu}"
        )
    if problem:
        backend.close()
        raise UserError(problem)
    backend.mtu = network.mtu or backend.mtu
    return backend


def _open_user(network: NetworkOptions, loop: IoEvents, number: int) -> StreamBackend:
    mtu = network.mtu or MTU
    if network.backend == "passt":
        return open_passt(loop, network.forwards, number=number, mtu=mtu)
    if not network.backend and shutil.which("passt"):
        try:
            return open_passt(loop, network.forwards, number=number, mtu=mtu)
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
    return open_slirp(loop, network.forwards, number=number, mtu=mtu)


def _open_nothing(loop: IoEvents) -> StreamBackend:
    """Return the end of a cable without another end: the link is down."""
    ours, theirs = socket.socketpair()
    theirs.close()
    return StreamBackend(loop, ours)


def _open_socket(network: NetworkOptions, loop: IoEvents) -> NetBackend:
    mtu = network.mtu or _SOCKET_MTU
    if network.listen is not None:
        listener = _listen(network.listen)
        return Switch(loop, listener, mtu, SocketNote.of(network.listen).remove_own)
    assert network.connect is not None  # noqa: S101  mode=socket has either
    return StreamBackend(loop, _connect(network.connect), mtu)


def _listen(path: Path) -> socket.socket:
    """Open a socket that only its owner can use."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        with suppress(OSError):  # bind() reports the reason
            remove_dead(path)
        listener.bind(str(path))
        path.chmod(0o600)  # before listen(): nobody can connect yet
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or error  # a path that is too long has no number
        raise UserError(f"-n listen={path}: {reason}: choose another path") from None
    return listener


def _connect(path: Path) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    try:
        connect_unix(stream, str(path), _PATIENCE)
    except OSError as error:
        stream.close()
        reason = error.strerror or error
        raise UserError(
            f"-n connect={path}: {reason}: start the guest that listens there first"
        ) from None
    return stream
