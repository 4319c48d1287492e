r"""Fixtures for tests that need a guest: ``pip install pyvmm[pytest]``.

::

    def test_boots(realm):
        guest = realm(kernel="Image", initrd="initrd.img")
        assert guest.exec(["uname", "-m"]).text == "aarch64\n"

``realm`` and ``vm`` make any number of guests, which end with the test.  ``--pyvmm-kernel`` and
``--pyvmm-initrd`` give what a test does not; with several kernels, each test runs once with each
of them.  The report of a failed test has the consoles of its guests.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.scripting.guest import Guest
from pyvmm.scripting.guest import normal_vm as make_vm
from pyvmm.scripting.guest import realm as make_realm
from pyvmm.scripting.options import Value
from pyvmm.vm.exit_code import Failure

_GUESTS: Final = pytest.StashKey[list[Guest]]()
_KERNEL: Final = "pyvmm_kernel"


class MakeGuest(Protocol):
    """Starts a guest that runs until the test ends; without a kernel, that of the command line."""

    def __call__(
        self, kernel: str | Path | None = None, *, name: str | None = None, **options: Value
    ) -> Guest:
        """Start it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("pyvmm")
    group.addoption(
        "--pyvmm-kernel",
        action="append",
        default=[],
        metavar="FILE",
        help="arm64 kernel of the guests; given several times, tests run with each",
    )
    group.addoption("--pyvmm-initrd", metavar="FILE", help="initial RAM disk of the guests")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses guests once with each kernel."""
    kernels = metafunc.config.getoption("--pyvmm-kernel")
    if _KERNEL in metafunc.fixturenames and kernels:
        ids = [Path(kernel).name for kernel in kernels]
        metafunc.parametrize(_KERNEL, kernels, ids=ids, scope="session")


@pytest.fixture(scope="session")
def pyvmm_kernel() -> str | None:
    """Return the kernel of this run of the test; None is the built-in guest."""
    return None


@pytest.fixture
def realm(request: pytest.FixtureRequest, pyvmm_kernel: str | None) -> Iterator[MakeGuest]:
    """Provide a function that starts a realm, with the arguments of ``pyvmm.realm``."""
    yield from _maker(request, pyvmm_kernel, make_realm)


@pytest.fixture
def vm(request: pytest.FixtureRequest, pyvmm_kernel: str | None) -> Iterator[MakeGuest]:
    """Provide a function that starts a normal VM, with the arguments of ``pyvmm.normal_vm``."""
    yield from _maker(request, pyvmm_kernel, make_vm)


def _maker(
    request: pytest.FixtureRequest, default: str | None, make: MakeGuest
) -> Iterator[MakeGuest]:
    node = request.node
    with ExitStack() as guests:

        def start(
            kernel: str | Path | None = None, *, name: str | None = None, **options: Value
        ) -> Guest:
            if kernel is None:
                kernel = default
                options = {"initrd": request.config.getoption("--pyvmm-initrd"), **options}
            guest = make(kernel, name=name, **options)
            node.stash.setdefault(_GUESTS, []).append(guest)
            return guests.enter_context(guest)

        yield start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the consoles of a failed test's guests to its report."""
    report = yield
    if report.when == "call" and report.failed:
        for guest in item.stash.get(_GUESTS, []):
            try:
                text = guest.console()
            except (UserError, Failure) as error:
                text = str(error)
            report.sections.append((f"console of {guest.name}", text))
    return report
