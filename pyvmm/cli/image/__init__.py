"""pyvmm image: build and manage guest images."""

import click

from pyvmm.cli.image.build import build
from pyvmm.cli.image.manage import inspect, list_, prune, rm

_HELP = """Build and manage guest images.

Images with names are in the cache ($XDG_CACHE_HOME/pyvmm/images, usually below ~/.cache); `pyvmm
run NAME` runs a guest from one.
"""


@click.group(help=_HELP)
def image() -> None:
    """Group the commands for images."""


for _command in (build, list_, inspect, rm, prune):
    image.add_command(_command)
