"""Start instances: new ones, and those that have ended, once more."""

import os

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.creation import create_instance
from pyvmm.cli.common.instances import GONE, format_os_error
from pyvmm.cli.common.kept import KeptOptions
from pyvmm.cli.common.options import virtual_machine
from pyvmm.vm.control.client import connect
from pyvmm.vm.control.directory import Directory


def begin(place: Directory, name: str) -> None:
    """Start an instance; create it again first if it has ended.

    Raises:
        UserError: it runs already, does not exist, or has not kept its options.
        Failure: it could not be created or started.
    """
    if place.find(name).state in GONE:
        kept = KeptOptions.decode(place.options(name), name)
        try:
            os.chdir(kept.place)
        except OSError as error:
            line = f"{format_os_error(error)}: {name} was created in this directory"
            raise UserError(line) from None
        options = virtual_machine({**kept.options(), "name": name})
        create_instance(options, place, kept, replaces=True)
    with connect(place, name) as client:
        client.api.start()


def wait_ready(place: Directory, name: str) -> None:
    """Wait for the agent of a guest.

    Raises:
        UserError: it has none, or its console is silent for a minute.
        Failure: the instance is gone.
    """
    with connect(place, name) as client:
        client.patience = None
        client.api.wait_agent()
