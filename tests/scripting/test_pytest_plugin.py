"""The pytest plugin: guests for the tests of others, their consoles, kernels to choose from."""

from pathlib import Path

import pytest

from tests.cli.kernels import IDLE, kernel

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("runtime")


def test_a_failed_test_shows_the_console_of_its_guest(pytester: pytest.Pytester) -> None:
    """And the guest ends with the test."""
    pytester.makepyfile(
        """
        def test_it(realm):
            guest = realm(mem="64M", no_hes=True)
            assert guest.wait(timeout=120) == 0
            assert guest.console() == "something else"
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*console of py-*", "Hello from a realm."])


def test_each_kernel_of_the_command_line(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """A test that uses guests runs with each; one that uses none runs once."""
    first = Path(kernel(tmp_path, IDLE))
    second = first.with_name("other")
    second.write_bytes(first.read_bytes())
    pytester.makepyfile(
        """
        def test_guest(vm, pyvmm_kernel):
            guest = vm(mem="64M")
            assert guest.status.kernel == pyvmm_kernel

        def test_no_guest():
            pass
        """
    )
    words = (f"--pyvmm-kernel={path}" for path in (first, second))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-v", *words)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines_random(["*test_guest?other? PASSED*", "*test_no_guest PASSED*"])
