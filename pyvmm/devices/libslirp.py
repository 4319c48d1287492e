"""A typed interface to libslirp, a network stack in a library; only this file uses Any for it.

The library is loaded when a network needs it.  The declarations here cover the functions in use and
version 1 of the configuration, which libslirp supports from 4.5 on; sockets are `int` on Linux.
"""

import os
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final

from cffi import FFI

from pyvmm.arch.errors import UserError

_LIBRARY: Final = "libslirp.so.0"
_CONFIG_VERSION: Final = 1
_UDP: Final = 1  # SLIRP_HOSTFWD_UDP
_DECLARATIONS: Final = """
typedef struct Slirp Slirp;

struct in_addr { uint32_t s_addr; };
struct in6_addr { uint32_t words[4]; };

struct slirp_config {
    uint32_t version;
    int restricted;
    bool in_enabled;
    struct in_addr vnetwork, vnetmask, vhost;
    bool in6_enabled;
    struct in6_addr vprefix_addr6;
    uint8_t vprefix_len;
    struct in6_addr vhost6;
    const char *vhostname, *tftp_server_name, *tftp_path, *bootfile;
    struct in_addr vdhcp_start, vnameserver;
    struct in6_addr vnameserver6;
    const char **vdnssearch, *vdomainname;
    size_t if_mtu, if_mru;
    bool disable_host_loopback, enable_emu;
};

struct slirp_callbacks {
    ssize_t (*send_packet)(const void *frame, size_t size, void *opaque);
    void (*guest_error)(const char *message, void *opaque);
    int64_t (*clock_get_ns)(void *opaque);
    void *(*timer_new)(void (*expired)(void *argument), void *argument, void *opaque);
    void (*timer_free)(void *timer, void *opaque);
    void (*timer_mod)(void *timer, int64_t expire_ms, void *opaque);
    void (*register_poll_fd)(int fd, void *opaque);
    void (*unregister_poll_fd)(int fd, void *opaque);
    void (*notify)(void *opaque);
};

Slirp *slirp_new(const struct slirp_config *, const struct slirp_callbacks *, void *opaque);
void slirp_cleanup(Slirp *);
void slirp_input(Slirp *, const uint8_t *frame, int size);
void slirp_pollfds_fill(Slirp *, uint32_t *timeout_ms,
                        int (*add)(int fd, int events, void *opaque), void *opaque);
void slirp_pollfds_poll(Slirp *, int has_failed,
                        int (*revents_of)(int index, void *opaque), void *opaque);
int slirp_add_hostxfwd(Slirp *, const char *host, unsigned host_size,
                       const char *guest, unsigned guest_size, int flags);
"""
_FUNCTIONS: Final = re.findall(r"\b(slirp_\w+)\(", _DECLARATIONS)

#: libslirp's bit for an event -> poll(2)'s.
_EVENTS: Final = {
    1: select.POLLIN,
    2: select.POLLOUT,
    4: select.POLLPRI,
    8: select.POLLERR,
    16: select.POLLHUP,
}
_NS_PER_MS: Final = 1_000_000
_FOREVER: Final = (1 << 32) - 1  # ms

_ffi: Final = FFI()
_ffi.cdef(_DECLARATIONS)


@dataclass(frozen=True, slots=True)
class SlirpConfig:
    """The network that the guest sees."""

    network: IPv4Network
    host: IPv4Address  # also the host's loopback
    guest: IPv4Address  # assigned by DHCP
    name_server: IPv4Address  # forwards to the host's
    network6: IPv6Network
    host6: IPv6Address
    name_server6: IPv6Address
    has_ipv6: bool
    mtu: int


def load() -> Any:
    """Return the library.

    Raises: UserError if it is not installed or lacks a function.
    """
    try:
        library = _ffi.dlopen(_LIBRARY)
        for function in _FUNCTIONS:
            getattr(library, function)
    except (OSError, AttributeError):
        raise UserError("libslirp is needed: install the package libslirp0") from None
    return library


def is_installed() -> bool:
    """Check whether the library can be loaded."""
    try:
        load()
    except UserError:
        return False
    return True


class Slirp:
    """One network.

    Args:
        send: called with frames for the guest, from the methods here; must not raise.
        clock: nanoseconds, monotonic.

    Concurrency: one thread at a time; the library has no locks.

    Raises: UserError if libslirp is not installed.
    """

    def __init__(
        self,
        config: SlirpConfig,
        send: Callable[[bytes], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._lib = load()
        self._timers = _Timers(lambda: clock() // _NS_PER_MS)
        self._watched: list[tuple[int, int]] = []  # fd, poll(2)'s events
        self._ready: dict[int, int] = {}  # fd -> poll(2)'s events
        # The library keeps pointers to these: they must exist as long as its network.
        self._callbacks = _callbacks(send, clock, self._timers)
        self._table = _ffi.new("struct slirp_callbacks *", self._callbacks)
        self._watch = _ffi.callback("int(int, int, void *)", self._add_watch, error=-1)
        self._revents_of = _ffi.callback("int(int, void *)", self._revents, error=0)
        self._slirp = self._lib.slirp_new(_config(config), self._table, _ffi.NULL)
        if self._slirp == _ffi.NULL:
            raise UserError("libslirp rejects its configuration: install passt")

    def add_forward(
        self,
        *,
        is_udp: bool,
        host_address: IPv4Address | IPv6Address,
        host_port: int,
        guest_port: int,
    ) -> None:
        """Forward a port of the host to the guest, at its address of the same IP version.

        Raises: OSError if the host's port cannot be used.
        """
        any_address = type(host_address)(0)  # the library finds out the guest's
        host, guest = (
            _socket_address(host_address, host_port),
            _socket_address(any_address, guest_port),
        )
        arguments = (host, len(host), guest, len(guest), _UDP if is_udp else 0)
        if self._lib.slirp_add_hostxfwd(self._slirp, *arguments):
            raise OSError(_ffi.errno, os.strerror(_ffi.errno))

    def input(self, frame: bytes) -> None:
        """Process a frame from the guest."""
        self._lib.slirp_input(self._slirp, frame, len(frame))

    def serve(self, wakeup: int) -> None:
        """Wait for events, and handle them.

        Args:
            wakeup: a file descriptor that ends the wait when it is readable.
        """
        timeout = _ffi.new("uint32_t *", self._timers.delay())
        self._watched.clear()
        self._lib.slirp_pollfds_fill(self._slirp, timeout, self._watch, _ffi.NULL)
        # Registered again each time: sockets and events change with every packet.
        poller = select.poll()
        poller.register(wakeup, select.POLLIN)
        for fd, events in self._watched:
            poller.register(fd, events)
        self._ready = dict(poller.poll(timeout[0]))
        self._lib.slirp_pollfds_poll(self._slirp, 0, self._revents_of, _ffi.NULL)
        self._timers.run()

    def close(self) -> None:
        """End all connections; the last call."""
        self._lib.slirp_cleanup(self._slirp)

    def _add_watch(self, fd: int, events: int, _opaque: Any) -> int:
        self._watched.append((fd, sum(ours for bit, ours in _EVENTS.items() if events & bit)))
        return len(self._watched) - 1

    def _revents(self, index: int, _opaque: Any) -> int:
        ready = self._ready.get(self._watched[index][0], 0)
        return sum(bit for bit, ours in _EVENTS.items() if ready & ours)


class _Timers:
    """The library's timers; times in milliseconds."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._callbacks: list[Callable[[], None]] = []  # few, made once
        self._expiries: dict[int, int] = {}

    def new(self, callback: Callable[[], None]) -> int:
        """Make a stopped timer; return its number, from 1 on."""
        self._callbacks.append(callback)
        return len(self._callbacks)

    def start(self, timer: int, expiry: int) -> None:
        """Make a timer expire once, at this time."""
        self._expiries[timer] = expiry

    def stop(self, timer: int) -> None:
        """Stop a timer."""
        self._expiries.pop(timer, None)

    def delay(self) -> int:
        """Return the time until the first timer expires."""
        now = self._now()
        return min((max(expiry - now, 0) for expiry in self._expiries.values()), default=_FOREVER)

    def run(self) -> None:
        """Call the callbacks of expired timers."""
        now = self._now()
        for timer in [timer for timer, expiry in self._expiries.items() if expiry <= now]:
            self.stop(timer)
            self._callbacks[timer - 1]()


def _callbacks(
    send: Callable[[bytes], None], clock: Callable[[], int], timers: _Timers
) -> dict[str, Any]:
    """Return the callbacks for the library; they must not raise."""

    def send_packet(frame: Any, size: int, _opaque: Any) -> int:
        send(_ffi.buffer(frame, size)[:])
        return size

    def timer_new(expired: Any, argument: Any, _opaque: Any) -> Any:
        return _ffi.cast("void *", timers.new(lambda: expired(argument)))

    functions: dict[str, Callable[..., Any]] = {
        "send_packet": send_packet,
        "guest_error": _ignore,  # only a message for a log
        "clock_get_ns": lambda _opaque: clock(),
        "timer_new": timer_new,
        "timer_free": lambda timer, _opaque: timers.stop(_number(timer)),
        "timer_mod": lambda timer, expiry, _opaque: timers.start(_number(timer), expiry),
        "register_poll_fd": _ignore,  # slirp_pollfds_fill() lists them before each wait
        "unregister_poll_fd": _ignore,
        "notify": _ignore,  # to wake a waiting thread; here the same thread calls
    }
    kinds = dict(_ffi.typeof("struct slirp_callbacks").fields)
    return {name: _ffi.callback(kinds[name].type, call) for name, call in functions.items()}


def _ignore(*_: Any) -> None:
    """Do nothing."""


def _number(timer: Any) -> int:
    return int(_ffi.cast("uintptr_t", timer))


def _config(config: SlirpConfig) -> Any:
    return _ffi.new(
        "struct slirp_config *",
        {
            "version": _CONFIG_VERSION,
            "in_enabled": True,
            "vnetwork": [_word(config.network.network_address)],
            "vnetmask": [_word(config.network.netmask)],
            "vhost": [_word(config.host)],
            "in6_enabled": config.has_ipv6,
            "vprefix_addr6": [_words(config.network6.network_address)],
            "vprefix_len": config.network6.prefixlen,
            "vhost6": [_words(config.host6)],
            "vdhcp_start": [_word(config.guest)],
            "vnameserver": [_word(config.name_server)],
            "vnameserver6": [_words(config.name_server6)],
            "if_mtu": config.mtu,
            "if_mru": config.mtu,
        },
    )


def _word(address: IPv4Address) -> int:
    """Return an address as a word of memory in network byte order."""
    return int.from_bytes(address.packed, sys.byteorder)


def _socket_address(address: IPv4Address | IPv6Address, port: int) -> bytes:
    """Return a struct sockaddr_in or sockaddr_in6."""
    if isinstance(address, IPv4Address):
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, address.packed)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, address.packed, 0)


def _words(address: IPv6Address) -> tuple[int, ...]:
    return struct.unpack("=4I", address.packed)
