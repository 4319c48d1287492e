"""The options of a virtual machine: what follows from several, and which go together."""

from dataclasses import fields
from pathlib import Path

import pytest

from pyvmm.arch.engine import DEFAULT_ENGINE
from pyvmm.arch.errors import UserError
from pyvmm.host.guest import RealmOptions
from pyvmm.vm.option_values import DiskOptions, GdbAddress
from pyvmm.vm.options import OPTIONS, VmOptions, read_options
from pyvmm.vm.share_options import ShareOptions

DISK = (DiskOptions(Path("disk")),)


def test_every_field_is_an_option() -> None:
    """With its declaration, and with the default that its help shows.

    Only the default engine is another one where the host forbids generated code.
    """
    for field in fields(VmOptions):
        text = OPTIONS[field.name].default_text
        if field.name == "engine":
            assert text == DEFAULT_ENGINE.value
        else:
            assert text is None or OPTIONS[field.name].value(text, is_run=False) == field.default


def test_what_is_not_given_has_its_default() -> None:
    """Whether click says None, or leaves it out."""
    assert read_options({}, is_run=True) == VmOptions()
    assert read_options({"dtb": None, "disks": (), "has_rng": False}, is_run=True) == VmOptions()


@pytest.mark.parametrize("is_realm", [False, True])
@pytest.mark.parametrize("disks", [(), DISK])
@pytest.mark.parametrize("wanted", [None, False, True])
def test_a_realm_has_a_power_button_only_if_asked_for(
    wanted: bool | None, disks: tuple[DiskOptions, ...], *, is_realm: bool
) -> None:
    """It would change the measurement; a normal VM with a disk has one by default."""
    options = VmOptions(wants_power_button=wanted, disks=disks, is_realm=is_realm)
    assert options.has_power_button == (bool(disks) and not is_realm if wanted is None else wanted)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"num_counters": "5"}, "--pmu-counters requires --pmu: add --pmu"),
        ({"has_pmu": True, "num_counters": "0"}, "--pmu-counters 0: give 1 to 6 counters"),
        ({"has_pmu": True, "num_counters": "7"}, "--pmu-counters 7: give 1 to 6 counters"),
        ({"has_pmu": True, "num_counters": "x"}, "--pmu-counters x: give 1 to 6 counters"),
        ({"has_pmu": True, "cpu_features": "-pmu"}, "omit -pmu of --cpu-features"),
    ],
)
def test_performance_monitors_that_cannot_be(given: dict[str, object], complaint: str) -> None:
    """One line each."""
    with pytest.raises(UserError, match=complaint):
        read_options(given, is_run=True)


def test_what_is_given_is_read() -> None:
    """Texts, numbers, switches either way, and lists."""
    given = {
        "disks": ("disk",),
        "ram_size": "64M",
        "has_defaults": True,
        "wants_agent": False,
        "timeout": 0.0,
        "gdb": "1234",
    }
    assert read_options(given, is_run=True) == VmOptions(
        disks=DISK,
        ram_size=64 << 20,
        has_defaults=False,
        wants_agent=False,
        timeout=0.0,
        gdb=GdbAddress(1234),
    )


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"measurement_algo": "sha384"}, "sha384 is for RMI 2.0: add --rmi 2.0"),
        ({"rmi": "2.0", "token_profile": "g0"}, "g0 is older than --rmi 2.0: choose g2"),
    ],
)
def test_options_of_a_revision(asked: dict[str, str], complaint: str) -> None:
    """What another revision of RMI does not have."""
    with pytest.raises(UserError, match=complaint):
        read_options({"is_realm": True, **asked}, is_run=True)
    assert read_options({"is_realm": True, "rmi": "2.0"}, is_run=True).realm == RealmOptions(
        revision=0x2_0000
    )


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"rmi"}, "--rmi is for realms: add --realm"),
        ({"is_debuggable"}, "--realm-debug is for realms: add --realm"),
        ({"measurement_algo"}, "--measurement-algo is for realms"),
        ({"personalization"}, "--realm-pv is for realms"),
        ({"metadata"}, "--metadata is for realms"),
        ({"token_profile"}, "--token-profile is for realms"),
        ({"wants_hes"}, "--no-hes is for realms"),
        ({"hes_directory"}, "--hes-dir is for realms"),
        ({"is_realm", "has_balloon"}, "--balloon is not for realms"),
        ({"is_realm", "wants_hes", "hes_directory"}, "--no-hes excludes --token-profile and"),
        ({"is_realm", "wants_hes", "token_profile"}, "--no-hes excludes --token-profile and"),
        ({"waits_for_gdb"}, "--gdb-wait requires --gdb"),
        ({"is_realm", "gdb"}, "--gdb: a realm hides its registers"),
    ],
)
def test_some_options_require_or_exclude_others(given: set[str], complaint: str) -> None:
    """Whatever their values are: nothing is read before."""
    with pytest.raises(UserError, match=complaint):
        read_options(dict.fromkeys(given, True), is_run=True)


def test_the_platform_of_a_guest_that_is_only_measured_needs_no_realm() -> None:
    """It has a root of trust without one."""
    planned = read_options({"hes_directory": "dir", "token_profile": "g2"}, is_run=False)
    assert planned == VmOptions(hes_directory=Path("dir"), token_profile="g2")  # noqa: S106


def test_a_realm_has_what_the_host_needs_to_know() -> None:
    """A normal VM has nothing of it."""
    assert VmOptions().realm is None
    assert VmOptions(is_realm=True).realm == RealmOptions()
    options = VmOptions(is_realm=True, measurement_algo="sha512", personalization=b"mine")
    assert options.realm == RealmOptions("sha512", b"mine")


def test_an_agent_has_a_port_where_there_is_a_disk() -> None:
    """Unless the user says otherwise."""
    assert (VmOptions().has_agent, VmOptions(disks=DISK).has_agent) == (False, True)
    assert VmOptions(wants_agent=True).has_agent
    assert not VmOptions(disks=DISK, wants_agent=False).has_agent


def test_pci_brings_an_its_unless_the_interrupt_controller_is_given() -> None:
    """Its devices have no messages without one; MMIO does not need it, but may have it."""
    assert not VmOptions().has_its
    for pci in (VmOptions(transport="pci"), VmOptions(forces_pci=True)):
        assert (pci.has_pci, pci.has_its) == (True, True)
    assert not VmOptions(transport="pci", irqchip="gicv3").has_its
    assert VmOptions(irqchip="gicv3-its").has_its


def test_only_a_realm_has_a_root_of_trust() -> None:
    """Unless it does without."""
    assert [VmOptions(is_realm=each).has_hes for each in (False, True)] == [False, True]
    assert not VmOptions(is_realm=True, wants_hes=False).has_hes


def test_parameters_follow_the_defaults_of_a_normal_vm() -> None:
    """The console, the disk, then the user's; or the user's alone."""
    assert VmOptions(disks=DISK, params="quiet").bootargs == "console=ttyS0 root=/dev/vda rw quiet"
    assert VmOptions(console="virtio").bootargs == "console=hvc0"
    assert VmOptions(disks=DISK, params="quiet", has_defaults=False).bootargs == "quiet"


def test_a_shared_root_is_the_root_also_beside_a_disk() -> None:
    """With kvmtool's parameters."""
    root = "rootfstype=9p rootflags=trans=virtio,version=9p2000.L,cache=loose"
    share = ShareOptions(Path("dir"))
    for options in (VmOptions(rootfs=share), VmOptions(rootfs=share, disks=DISK, is_realm=True)):
        assert options.bootargs == f"console=ttyS0 root=/dev/root rw {root}"
        assert options.has_agent
    share = ShareOptions(Path("dir"), is_read_only=True)
    assert " ro rootfstype=9p" in VmOptions(rootfs=share).bootargs


def test_nothing_is_added_to_the_parameters_of_a_realm() -> None:
    """They are measured: what the user wrote is what is there."""
    assert VmOptions(disks=DISK, params="quiet", is_realm=True).bootargs == "quiet"
    assert VmOptions(disks=DISK, is_realm=True).bootargs == "console=ttyS0 root=/dev/vda rw"
