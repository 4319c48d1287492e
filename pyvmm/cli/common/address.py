"""The address of a server: --host and --port."""

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import format_os_error


def url(host: str, port: int, path: str = "") -> str:
    """Return the address of a server of HTTP.

    >>> url("::1", 80, "/metrics")
    'http://[::1]:80/metrics'
    """
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"


def unusable(host: str, port: int, error: OSError) -> UserError:
    """Return the error that nobody can listen at an address."""
    return UserError(
        f"--host {host} --port {port}: {format_os_error(error)}: choose another address"
    )
