"""The options of a virtual machine: each is declared here, once, as a field of `VmOptions`.

The command line, the configuration file, `pyvmm config show` and the man pages derive from the
fields, in their order.  To add an option, add a field, and use it.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyvmm.arch.engine import DEFAULT_ENGINE, Engine
from pyvmm.arch.errors import UserError
from pyvmm.arch.events import KINDS
from pyvmm.arch.pmu import NUM_EVENT_COUNTERS
from pyvmm.arch.rmi_revisions import REVISIONS
from pyvmm.arch.sysregs import DEFAULT_FEATURES, Feature
from pyvmm.devices.net_user import PortForward
from pyvmm.host.guest import REALM_IS_CLOSED, RealmOptions
from pyvmm.vm.declare import Kind, Scope, declared, file, option, repeatable, switch
from pyvmm.vm.memory_map import KVMTOOL, MACHINES, MIB, MemoryMap
from pyvmm.vm.name import check_name
from pyvmm.vm.network_options import HELP as NETWORK_HELP
from pyvmm.vm.network_options import NetworkOptions, parse_forwards, parse_networks
from pyvmm.vm.option_values import (
    DiskOptions,
    GdbAddress,
    VsockOptions,
    parse_cpu_features,
    parse_disks,
    parse_gdb,
    parse_num_counters,
    parse_num_cpus,
    parse_personalization,
    parse_planned_ram_size,
    parse_ram_size,
    parse_vsock,
    read_metadata,
)
from pyvmm.vm.port_options import PortOptions, parse_ports
from pyvmm.vm.share_options import (
    ShareOptions,
    parse_9p,
    parse_rootfs,
    parse_virtiofs,
    parse_volumes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmOptions:
    """A virtual machine as the user wants it; sizes in bytes."""

    kernel: Path | None = file(  # None: the built-in guest
        "-k --kernel", "arm64 Image, Image.gz, ELF file or flat binary"
    )
    initrd: Path | None = file("-i --initrd", "initial RAM disk")
    image: str | None = option(
        None,
        "--image",
        "image of `pyvmm image build`, which provides kernel, initial RAM disk and first disk",
        read=check_name,
        metavar="NAME",
    )
    persists: bool = switch(
        False,
        "--persist",
        "let the guest write to the image; otherwise, what it writes is thrown away",
        scope=Scope.RUN,
    )
    oci: str | None = option(
        None,
        "--oci",
        "container image, packed into the initial RAM disk, which realms measure; it runs the"
        " image's command, or one after --",
        read=str,
        metavar="ARCHIVE|LAYOUT|containers-storage:NAME",
    )
    oci_words: tuple[str, ...] = repeatable(
        "--oci-arg",
        "word of the container's command, in place of the image's; words after -- are the same",
        read=tuple,
        metavar="WORD",
    )
    disks: tuple[DiskOptions, ...] = repeatable(
        "-d --disk",
        "raw or qcow2 image, or block device; OPTION: ro, direct, snapshot, serial=TEXT,"
        " cache=writeback|none|writethrough, format=raw|qcow2, backing=FILE",
        read=parse_disks,
        kind=Kind.FILE_WITH_DETAILS,
        metavar="FILE[,OPTION]...",
    )
    rootfs: ShareOptions | None = option(
        None,
        "--rootfs",
        "directory that is the guest's root file system, through 9P or virtio-fs",
        read=parse_rootfs,
        kind=Kind.FILE_WITH_DETAILS,
        metavar="DIR[,ro][,9p|,virtiofs]",
    )
    shares: tuple[ShareOptions, ...] = repeatable(
        "--9p",
        "directory that the guest can mount by its tag, through 9P",
        read=parse_9p,
        kind=Kind.FILE_WITH_DETAILS,
        metavar="DIR,TAG[,ro]",
    )
    file_systems: tuple[ShareOptions, ...] = repeatable(
        "--virtiofs",
        "directory that the guest can mount by its tag, through virtio-fs",
        read=parse_virtiofs,
        kind=Kind.FILE_WITH_DETAILS,
        metavar="DIR,TAG[,ro]",
    )
    volumes: tuple[ShareOptions, ...] = repeatable(
        "-v --volume",
        "directory that the agent in the guest's image mounts at PATH",
        read=parse_volumes,
        kind=Kind.FILE_WITH_DETAILS,
        metavar="DIR:PATH[:ro]",
    )
    ram_size: int = option(
        512 * MIB,
        "-m --mem",
        "memory",
        read=parse_ram_size,
        plan=parse_planned_ram_size,
        metavar="SIZE",
        default_text="512M",
    )
    num_cpus: int = option(
        1, "-c --cpus", "CPUs", read=parse_num_cpus, metavar="N", default_text="1"
    )
    cpu_features: Feature = option(
        DEFAULT_FEATURES,
        "--cpu-features",
        "add and remove CPU features: pauth, bti, pmu  [default: +pauth,+bti,+pmu]",
        read=parse_cpu_features,
        metavar="+NAME|-NAME,...",
    )
    has_pmu: bool = switch(False, "--pmu", "performance monitors; measured")
    num_counters: int = option(
        NUM_EVENT_COUNTERS,
        "--pmu-counters",
        "event counters of the performance monitors; measured",
        read=parse_num_counters,
        metavar="N",
        default_text=str(NUM_EVENT_COUNTERS),
    )
    engine: Engine | None = option(
        None,
        "--engine",
        "interpret the guest's code, or translate hot code to the host's instructions",
        read=Engine,
        choices=tuple(engine.value for engine in Engine),
        default_text=DEFAULT_ENGINE.value,
        scope=Scope.RUN,
    )
    params: str | None = option(
        None,
        "-p --params",
        "kernel parameters, added to the default ones; in a realm, instead of them",
        read=str,
    )
    console: str = option(
        "serial",
        "--console",
        "console device",
        read=str,
        choices=("serial", "virtio"),
        default_text="serial",
    )
    machine: str = option(
        KVMTOOL.name,
        "--machine",
        "memory map and standard devices: kvmtool's, or those of QEMU's machine virt",
        read=str,
        choices=tuple(MACHINES),
        default_text=KVMTOOL.name,
    )
    firmware: Path | None = file(
        "--firmware",
        "EDK2, U-Boot or other firmware that boots from a disk; with --machine virt",
    )
    flash: Path | None = file(
        "--flash", "file for the firmware's variables; created if it does not exist"
    )
    transport: str = option(
        "mmio",
        "--transport --virtio-transport",
        "bus of the virtio devices",
        read=str,
        choices=("mmio", "pci"),
        default_text="mmio",
    )
    forces_pci: bool = switch(False, "--force-pci", "same as --transport pci")
    irqchip: str | None = option(
        None,
        "--irqchip",
        "interrupt controller; gicv3-its has an ITS for the messages of PCI devices"
        "  [default: gicv3; with PCI, gicv3-its]",
        read=str,
        choices=("gicv3", "gicv3-its"),
    )
    dtb: Path | None = file("--dtb", "use this device tree")
    dump_dtb: Path | None = file("--dump-dtb", "write the device tree to this file")
    has_defaults: bool = switch(True, "--nodefaults", "omit the default kernel parameters")
    networks: tuple[NetworkOptions, ...] = repeatable(
        "-n --network", NETWORK_HELP, read=parse_networks, metavar="KEY=VALUE,..."
    )
    forwards: tuple[PortForward, ...] = repeatable(
        "--publish",
        "forward a port of the host to one of the guest; also -p",
        read=parse_forwards,
        metavar="[ADDRESS:]PORT:PORT[/udp]",
    )
    vsock: VsockOptions | None = option(
        None,
        "--vsock",
        "socket device with this address, for programs of the host and other guests",
        read=parse_vsock,
        metavar="CID|auto[,uds=PATH]",
    )
    has_rng: bool = switch(False, "--rng", "entropy device")
    has_balloon: bool = switch(False, "--balloon", "memory balloon device; not for realms")
    wants_agent: bool | None = switch(
        None,
        "--agent/--no-agent",
        "port for the agent of the guest's image  [default: with a disk or --rootfs]",
    )
    wants_power_button: bool | None = switch(
        None,
        "--power-button/--no-power-button",
        "power button, which `pyvmm stop` presses  [default: in a normal VM with a disk]",
    )
    has_watchdog: bool = switch(
        False, "--watchdog", "watchdog; if it expires, the guest ends with exit code 10"
    )
    ports: tuple[PortOptions, ...] = repeatable(
        "--port",
        "port of the guest for bytes to and from a Unix socket of the host",
        read=parse_ports,
        metavar="NAME=SOCKET",
    )
    is_el2: bool = switch(
        False, "--el2", "start the kernel at EL2 of the machine, which has no other hypervisor then"
    )
    is_el1: bool = switch(False, "--el1", "the same, at EL1")
    is_realm: bool = switch(False, "--realm", "run the guest in a realm")
    rmi: str = option(
        "1.0",
        "--rmi",
        "revision of the Realm Management Interface by which the host makes the realm",
        read=str,
        choices=tuple(REVISIONS),
        default_text="1.0",
        scope=Scope.REALM,
    )
    measurement_algo: str = option(
        "sha256",
        "--measurement-algo",
        "hash algorithm that measures the realm; sha384 needs --rmi 2.0  [default: sha256]",
        read=str,
        choices=("sha256", "sha384", "sha512"),
        scope=Scope.REALM,
    )
    personalization: bytes = option(
        b"",
        "--realm-pv",
        "realm personalization value, at most 64 bytes",
        read=parse_personalization,
        scope=Scope.REALM,
    )
    is_debuggable: bool = switch(
        False, "--realm-debug", "let the host debug the realm; measured", scope=Scope.REALM
    )
    metadata: bytes = option(
        b"",
        "--metadata",
        "metadata that the realm's owner has signed",
        read=read_metadata,
        kind=Kind.FILE,
        scope=Scope.REALM,
    )
    token_profile: str = option(
        "g1",
        "--token-profile",
        "generation of the realm's attestation tokens  [default: g1]",
        read=str,
        choices=("g0", "g1", "g1b", "g2", "g2b"),
        scope=Scope.PLATFORM,
    )
    wants_hes: bool = switch(
        True,
        "--no-hes",
        "run without a root of trust: a realm cannot attest",
        scope=Scope.PLATFORM,
    )
    hes_directory: Path | None = option(  # None: the user's
        None,
        "--hes-dir",
        "state of the root of trust  [default: $PYVMM_HES_DIR, or the user's]",
        read=Path,
        kind=Kind.DIRECTORY,
        scope=Scope.PLATFORM,
    )
    restore: Path | None = file(
        "--restore", "continue a guest from this file of `pyvmm snapshot`", scope=Scope.RUN
    )
    on_reboot: str = option(
        "exit",
        "--on-reboot",
        "what to do if the guest reboots: end with exit code 0, or start the same guest again",
        read=str,
        choices=("exit", "restart"),
        default_text="exit",
        scope=Scope.RUN,
    )
    name: str = option(
        "", "--name", "name of the instance that `run` makes  [default: guest-PID]", read=check_name
    )
    timeout: float | None = option(
        None,
        "--timeout",
        "stop the guest after SECONDS",
        read=float,
        kind=Kind.SECONDS,
        metavar="SECONDS",
        scope=Scope.RUN,
    )
    sandbox: str = option(
        "auto",
        "--sandbox",
        "confine the process to what the guest needs: as far as this host can, or not at all, or"
        " refuse to run otherwise",
        read=str,
        choices=("auto", "strict", "off"),
        default_text="auto",
        scope=Scope.RUN,
    )
    trace: str | None = option(
        None,
        "--trace",
        f"print events: all, or some of {','.join(KINDS)}; `--trace help` explains them",
        read=str,
        metavar="KIND,...[:FILE]",
        scope=Scope.RUN,
    )
    trace_format: str = option(
        "text",
        "--trace-format",
        "write events as lines of text or of JSON",
        read=str,
        choices=("text", "json"),
        default_text="text",
        scope=Scope.RUN,
    )
    trace_out: Path | None = file(
        "--trace-out",
        "write the run as a timeline for Perfetto and `pyvmm timeline`",
        scope=Scope.RUN,
    )
    record: Path | None = file(
        "--record",
        "record the run to this file, for `pyvmm replay`",
        scope=Scope.RUN,
    )
    is_observed: bool = switch(
        False,
        "--observe",
        "let `pyvmm inspect` see the whole machine, as no host can",
        scope=Scope.RUN,
    )
    gdb: GdbAddress | None = option(
        None,
        "--gdb",
        "let GDB connect, at a loopback port or Unix socket",
        read=parse_gdb,
        metavar="PORT|SOCKET",
        scope=Scope.RUN,
    )
    waits_for_gdb: bool = switch(
        False, "--gdb-wait", "wait for GDB before the first instruction", scope=Scope.RUN
    )
    vmlinux: Path | None = file(
        "--vmlinux",
        "ELF file with the symbols of the kernel, to explain a failure",
        scope=Scope.RUN,
    )

    @property
    def layout(self) -> MemoryMap:
        """The guest's memory map."""
        return MemoryMap(self.ram_size, self.num_cpus, MACHINES[self.machine])

    @property
    def serial_name(self) -> str:
        """Linux's name of the serial port."""
        return "ttyS0" if self.layout.machine is KVMTOOL else "ttyAMA0"

    @property
    def has_agent(self) -> bool:
        """Whether the guest has a port for its agent: by default, if it has a root file system."""
        has_root = bool(self.disks) or self.rootfs is not None or bool(self.volumes)
        return has_root if self.wants_agent is None else self.wants_agent

    @property
    def directories(self) -> tuple[ShareOptions, ...]:
        """The directories that the guest shares, its root first."""
        root = () if self.rootfs is None else (self.rootfs,)
        return (*root, *self.shares, *self.file_systems, *self.volumes)

    @property
    def has_power_button(self) -> bool:
        """Whether the guest has a power button: by default, if it is a normal VM with a disk."""
        if self.wants_power_button is None:
            return bool(self.disks) and not self.is_realm
        return self.wants_power_button

    @property
    def has_pci(self) -> bool:
        """Whether the virtio devices are on PCI."""
        return self.forces_pci or self.transport == "pci"

    @property
    def has_its(self) -> bool:
        """Whether the interrupt controller has an ITS: by default, if there is PCI."""
        return self.has_pci if self.irqchip is None else self.irqchip == "gicv3-its"

    @property
    def has_hes(self) -> bool:
        """Whether a root of trust attests the guest, or the realms that it may make."""
        return (self.is_realm or self.owns_machine) and self.wants_hes

    @property
    def realm(self) -> RealmOptions | None:
        """What the host needs to know of the realm; None for a normal VM."""
        if not self.is_realm:
            return None
        return RealmOptions(
            self.measurement_algo,
            self.personalization,
            self.metadata,
            self.is_debuggable,
            REVISIONS[self.rmi],
        )

    @property
    def owns_machine(self) -> bool:
        """Whether the kernel is no guest, but has the normal world of the machine."""
        return self.is_el2 or self.is_el1

    @property
    def bootargs(self) -> str:
        """The kernel's command line.

        For a normal VM it is the default parameters, then the user's.  A realm's is measured, so
        nothing is added to what the user gave; the default ones apply if the user gave none.
        """
        if not self.has_defaults or (self.is_realm and self.params is not None):
            return self.params or ""
        words = [f"console={'hvc0' if self.console == 'virtio' else self.serial_name}"]
        if self.rootfs is not None:
            words.append(self.rootfs.root_parameters)
        elif self.disks:
            words.append(f"root=/dev/vda {'ro' if self.disks[0].is_read_only else 'rw'}")
        return " ".join([*words, self.params or ""]).strip()


OPTIONS: Final = declared(VmOptions)


def read_options(asked: Mapping[str, object], *, is_run: bool) -> VmOptions:
    """Return the virtual machine that the user asked for.

    Args:
        asked: what the user gave, by the names of the fields; None and () mean nothing.
        is_run: the machine is to run here; otherwise it is only measured.

    Raises:
        UserError: a value is invalid, or two options exclude each other.
    """
    given = {name: each for name, each in asked.items() if each is not None and each != ()}
    chosen = {name: each for name, each in given.items() if each != OPTIONS[name].default_text}
    _check_together({name for name, each in chosen.items() if each is not False}, is_run=is_run)
    values = {name: OPTIONS[name].value(each, is_run=is_run) for name, each in given.items()}
    options = VmOptions(**values)  # type: ignore[arg-type]  # the type of each is checked above
    _check_revision(options)
    if options.volumes and not options.has_agent:
        raise UserError("--volume requires the agent, which mounts it: omit --no-agent")
    if options.has_pmu and Feature.PMU not in options.cpu_features:
        raise UserError("--pmu requires the CPU feature pmu: omit -pmu of --cpu-features")
    return options


def _check_revision(options: VmOptions) -> None:
    """Check that the revision of RMI has what is asked for."""
    if options.measurement_algo == "sha384" and options.rmi == "1.0":
        raise UserError("--measurement-algo sha384 is for RMI 2.0: add --rmi 2.0")
    if options.token_profile == "g0" and options.rmi == "2.0":  # noqa: S105  not a password
        raise UserError("--token-profile g0 is older than --rmi 2.0: choose g2 or g2b, or omit it")


def _check_together(given: AbstractSet[str], *, is_run: bool) -> None:
    """Check that no option requires another one that is missing, or excludes a given one."""
    is_realm = "is_realm" in given
    realm_scopes = {Scope.REALM}
    if is_run and {"is_el1", "is_el2"}.isdisjoint(given):  # else it may have realms of its own
        realm_scopes.add(Scope.PLATFORM)
    for name, declaration in OPTIONS.items():
        if name in given and declaration.scope in realm_scopes and not is_realm:
            raise UserError(f"{declaration.flag} is for realms: add --realm")
    if is_realm and "has_balloon" in given:
        raise UserError("--balloon is not for realms: the host cannot take memory from a realm")
    if "wants_hes" in given and ("token_profile" in given or "hes_directory" in given):
        raise UserError("--no-hes excludes --token-profile and --hes-dir: omit it, or them")
    if "num_counters" in given and "has_pmu" not in given:
        raise UserError("--pmu-counters requires --pmu: add --pmu")
    if "waits_for_gdb" in given and "gdb" not in given:
        raise UserError("--gdb-wait requires --gdb: add --gdb PORT or --gdb SOCKET")
    if "persists" in given and "image" not in given:
        raise UserError("--persist requires an image: add --image NAME")
    if "restore" in given:
        _check_restored(given)
    _check_firmware(given)
    _check_level(given)
    if is_realm and "gdb" in given and "is_debuggable" not in given:
        raise UserError(f"--gdb: {REALM_IS_CLOSED}")


#: Options of a guest that the owner of the machine cannot have.
_NOT_FOR_OWNERS: Final = ("is_realm", "firmware", "restore", "record", "has_pmu", "has_balloon")


def _check_level(given: AbstractSet[str]) -> None:
    """Check that nothing is given that requires a hypervisor below the kernel."""
    level = next((name for name in ("is_el2", "is_el1") if name in given), None)
    if level is None:
        return
    flag = OPTIONS[level].flag
    if {"is_el2", "is_el1"} <= set(given):
        raise UserError("--el2 excludes --el1: give one")
    if "machine" not in given and given & {"forces_pci", "transport", "irqchip"}:
        raise UserError(f"{flag} with PCI requires its place in the machine: add --machine virt")
    for name in _NOT_FOR_OWNERS:
        if name in given:
            raise UserError(f"{flag} excludes {OPTIONS[name].flag}: omit one")


def _check_firmware(given: Collection[str]) -> None:
    """Check that a machine that starts with firmware has it, and nothing that replaces it."""
    if "firmware" not in given:
        if "flash" in given:
            raise UserError("--flash requires --firmware, whose variables it keeps: add it")
        return
    if "machine" not in given:
        raise UserError("--firmware requires the machine that has flash: add --machine virt")
    if "is_realm" in given:
        raise UserError("--firmware is not for realms, which start from measured memory: omit it")
    for name in ("kernel", "initrd", "params", "rootfs", "has_defaults"):
        if name in given:
            flag = OPTIONS[name].flag
            raise UserError(f"--firmware excludes {flag}: it starts what is on a disk: omit one")


#: Options of a restored guest: its name, and what the host connects to its devices.
_CONNECTED: Final = frozenset({"name", "disks", "networks", "ports", "vsock"})


def _check_restored(given: Collection[str]) -> None:
    """Check that nothing is given that a snapshot determines."""
    for name, declaration in OPTIONS.items():
        is_free = name in _CONNECTED or declaration.scope is Scope.RUN
        if name in given and not is_free:
            raise UserError(f"--restore: the snapshot determines {declaration.flag}: omit it")
    if "on_reboot" in given:
        raise UserError("--restore excludes --on-reboot: a snapshot has no kernel to boot again")
