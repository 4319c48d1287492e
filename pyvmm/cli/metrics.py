"""pyvmm metrics: what instances do and use, in the text format of Prometheus."""

import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import click
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.address import unusable, url
from pyvmm.cli.common.instances import GONE, directory
from pyvmm.cli.common.say import print_lines
from pyvmm.vm.control.api import Statistics, Status
from pyvmm.vm.control.client import connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode, Failure

_HELP = """Print what all instances do and use, in the text format of Prometheus.

With --port, serve it: a scrape of http://HOST:PORT/metrics reads all instances. An instance that
does not answer has pyvmm_up 0. Ctrl-C and SIGTERM end it.
"""
_PATIENCE = 2.0  # seconds for an instance to answer: a scrape has ten


@click.command(help=_HELP)
@click.option("--host", default="127.0.0.1", show_default=True, help="IP address to listen on")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="TCP port; 0: any free")
def metrics(*, host: str, port: int | None) -> int:
    """Print the metrics, or serve them until the user ends it."""
    registry = CollectorRegistry()
    registry.register(Instances(directory()))
    if port is None:
        print_lines(*generate_latest(registry).decode().splitlines())
        return ExitCode.OK
    return _serve(registry, host, port)


def _serve(registry: CollectorRegistry, host: str, port: int) -> int:
    ends = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # of the server's threads, too
    try:
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise unusable(host, port, error) from None
        print_lines(url(host, server.server_port, "/metrics"))
        signal.sigwait(ends)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    server.shutdown()
    thread.join()
    server.server_close()
    return ExitCode.OK


class Instances(Collector):
    """Reads all instances at each scrape."""

    def __init__(self, place: Directory) -> None:
        """Read the instances of a directory."""
        self._place = place

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        statuses = self._place.statuses()
        found = {each.name: self._statistics(each) for each in statuses}
        yield from _of_statuses(statuses, found)
        yield from _of_statistics({name: each for name, each in found.items() if each is not None})

    def _statistics(self, status: Status) -> Statistics | None:
        """Return the statistics of an instance, or None if it gives none."""
        if status.state not in GONE:
            with suppress(UserError, Failure), connect(self._place, status.name, _PATIENCE) as one:
                return one.api.statistics()
        return None


def _of_statuses(statuses: list[Status], found: dict[str, Statistics | None]) -> Iterator[Metric]:
    """Yield what is known of each instance, shut off or not."""
    up = GaugeMetricFamily("pyvmm_up", "Whether the instance answers.", labels=["name"])
    info = GaugeMetricFamily(
        "pyvmm_instance_info", "An instance.", labels=["name", "kind", "state"]
    )
    cpus = GaugeMetricFamily("pyvmm_cpus", "The CPUs of the guest.", labels=["name"])
    memory = GaugeMetricFamily("pyvmm_ram_bytes", "The guest's memory.", labels=["name"])
    uptime = GaugeMetricFamily("pyvmm_uptime_seconds", "Since the start.", labels=["name"])
    reboots = CounterMetricFamily("pyvmm_reboots", "Reboots of the guest.", labels=["name"])
    for each in statuses:
        up.add_metric([each.name], found[each.name] is not None)
        info.add_metric([each.name, each.kind, each.state], 1)
        cpus.add_metric([each.name], each.num_cpus)
        memory.add_metric([each.name], each.ram_size)
        reboots.add_metric([each.name], each.reboots)
        if each.started is not None and each.state not in GONE:
            uptime.add_metric([each.name], time.time() - each.started)
    yield from (up, info, cpus, memory, uptime, reboots)


def _of_statistics(found: dict[str, Statistics]) -> Iterator[Metric]:
    """Yield the counters of the instances that answered."""
    instructions = CounterMetricFamily(
        "pyvmm_instructions", "Instructions executed.", labels=["name", "cpu"]
    )
    exits = CounterMetricFamily(
        "pyvmm_exits", "Exits to the host.", labels=["name", "cpu", "reason"]
    )
    resident = GaugeMetricFamily(
        "pyvmm_resident_bytes", "Memory of the host in use.", labels=["name", "pas"]
    )
    granules = GaugeMetricFamily(
        "pyvmm_granules", "Granules of 4 KiB in the space.", labels=["name", "pas"]
    )
    devices = CounterMetricFamily(
        "pyvmm_device", "What a device has counted.", labels=["name", "device", "what"]
    )
    for name, each in found.items():
        for cpu, vcpu in enumerate(each.vcpus):
            instructions.add_metric([name, str(cpu)], vcpu.instructions)
            for reason, count in vcpu.exits.items():
                exits.add_metric([name, str(cpu), reason], count)
        for pas, memory in each.memory.items():
            resident.add_metric([name, pas], memory.resident)
            granules.add_metric([name, pas], memory.granules)
        for device, counts in each.devices.items():
            for what, count in counts.items():
                devices.add_metric([name, device, what], count)
    yield from (instructions, exits, resident, granules, devices)
