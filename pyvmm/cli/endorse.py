"""pyvmm endorse: print what a verifier should expect of this platform and of a realm on it."""

from collections.abc import Iterable
from pathlib import Path

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import write_file
from pyvmm.cli.common.options import GuestCommand, plan_options, vm_options
from pyvmm.cli.common.say import print_json_text, say
from pyvmm.platform import Platform, boot_log
from pyvmm.root_of_trust import BootEvent, HesStatus, RootOfTrust
from pyvmm.token.endorse import CorimDraft, platform_corim, realm_corim, reference_json
from pyvmm.token.reference import ComponentValues, PlatformValues, RealmValues
from pyvmm.vm.machine.measure import RealmPlan
from pyvmm.vm.options import VmOptions

_HELP = """Print what a verifier should expect: this platform's reference values and trust anchor.

Takes the options of `pyvmm run`; with --realm, it includes the values of that realm. The output is
a file for `pyvmm verify --reference`.
"""


@click.command(cls=GuestCommand, help=_HELP)
@plan_options
@click.option(
    "--corim",
    type=click.Path(path_type=Path, file_okay=False),
    help="instead, write CoRIM files there: platform.cbor, and realm.cbor with --realm",
)
@click.option(
    "--corim-draft",
    type=click.Choice([draft.value for draft in CorimDraft]),
    help="draft of the CCA profiles for --corim; Veraison reads 03  [default: 03]",
)
@click.option("--json", is_flag=True, expose_value=False, help="print JSON (the default)")
def endorse(  # noqa: D103  the help says it
    *, positional: Path | None, corim: Path | None, corim_draft: str | None, **asked: object
) -> None:
    if corim_draft is not None and corim is None:
        raise UserError("--corim-draft requires --corim: add --corim DIR")
    options = vm_options(positional, asked, is_run=False)
    if not options.wants_hes:
        raise UserError("endorse needs the root of trust: omit --no-hes")
    realm = _realm_values(options) if options.realm is not None else None
    with RootOfTrust(options.hes_directory) as root_of_trust:
        log = boot_log(root_of_trust, options.cpu_features)
        platform = _platform_values(root_of_trust.status(), log)
        if root_of_trust.notice:
            say(root_of_trust.notice)
    if corim is None:
        print_json_text(reference_json(platform, realm))
        return
    draft = CorimDraft(corim_draft or CorimDraft.D03)
    files = {"platform.cbor": platform_corim(platform, draft)}
    if realm is not None:
        files["realm.cbor"] = realm_corim(realm, draft)
    _write(corim, files)


def _realm_values(options: VmOptions) -> RealmValues:
    plan = RealmPlan(options)
    steps = plan.measure(Platform(plan.memory_size, options.num_cpus))
    personalization = options.realm.personalization if options.realm else b""
    return RealmValues(rim=steps[-1].rim, rpv=personalization.ljust(64, b"\0"))


def _platform_values(status: HesStatus, log: Iterable[BootEvent]) -> PlatformValues:
    """Combine the status of the HES and the log of a boot."""
    components: dict[int, ComponentValues] = {}
    for event in log:
        # A slot that is extended twice has no component type.
        sw_type = event.sw_type if event.slot not in components else None
        components[event.slot] = ComponentValues(
            bytes.fromhex(event.value), bytes.fromhex(event.signer_id), sw_type or None
        )
    return PlatformValues(
        bytes.fromhex(status.implementation_id),
        bytes.fromhex(status.instance_id),
        bytes.fromhex(status.config),
        tuple(components.values()),
        bytes.fromhex(status.cpak),
    )


def _write(directory: Path, files: dict[str, bytes]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_file(directory / name, data)
            click.echo(directory / name)
    except OSError as error:
        raise UserError(
            f"--corim {error.filename or directory}: {error.strerror}: choose another directory"
        ) from None
