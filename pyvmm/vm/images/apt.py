"""A private apt: another architecture and other suites, from the machine's own package sources.

The machine's apt is not changed: lists, archives and configuration are in one directory of ours.
Mirrors, proxies and trusted keys come from the machine's own configuration, so no mirror is named
here and every signature is checked.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyvmm.arch.errors import UserError

#: Called with the progress of the current step in percent, 0 to 100.
Progress = Callable[[float], None]

#: Fields of a machine's source entry that a private one replaces or does not need.
_REPLACED = frozenset(
    {"types", "uris", "suites", "components", "architectures", "enabled", "languages", "targets"}
)
_ARCHIVE_COMPONENT = "main"


@dataclass(frozen=True, slots=True)
class Source:
    """A package archive of the machine: its addresses and its options, named as in apt."""

    uris: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    def entry(self, suites: Iterable[str], architecture: str) -> str:
        """Return a deb822 entry for other suites of the same archive."""
        fields = {
            "Types": "deb",
            "URIs": self.uris,
            "Suites": " ".join(suites),
            "Components": _ARCHIVE_COMPONENT,
            "Architectures": architecture,
            **dict(self.options),
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items())


def parse_deb822(text: str) -> Iterator[Source]:
    """Yield the enabled binary sources of a `.sources` file."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = _stanza_fields(stanza)
        plain = {name.lower(): value for name, value in fields.items()}
        enabled = plain.get("enabled", "yes").strip().lower() not in {"no", "false", "0"}
        if enabled and "deb" in plain.get("types", "").split() and "uris" in plain:
            yield Source(
                uris=plain["uris"],
                suites=tuple(plain.get("suites", "").split()),
                components=tuple(plain.get("components", "").split()),
                options=tuple((k, v) for k, v in fields.items() if k.lower() not in _REPLACED),
            )


def _stanza_fields(stanza: str) -> dict[str, str]:
    """Return a stanza's fields; a value includes its continuation lines, as of an inline key."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0].isspace():
            fields[name] = f"{fields.get(name, '')}\n{line}"
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<rest>.+)$")
#: One-line options that are kept, and their deb822 names.
_OPTION_NAMES = {
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "check-valid-until": "Check-Valid-Until",
}


def parse_one_line(text: str) -> Iterator[Source]:
    """Yield the binary sources of a `.list` file."""
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#", 1)[0].strip())
        if match is None:
            continue
        suite, *components = match["rest"].split()
        pairs = (option.partition("=") for option in (match["options"] or "").split())
        yield Source(
            uris=match["uri"],
            suites=(suite,),
            components=tuple(components),
            options=tuple(
                (_OPTION_NAMES[key.lower()], value)
                for key, _, value in pairs
                if key.lower() in _OPTION_NAMES
            ),
        )


def machine_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """Return the machine's archives that could contain the distribution, most likely first."""
    found: list[Source] = []
    for path in sorted([etc / "sources.list", *etc.glob("sources.list.d/*")]):
        parse = {".sources": parse_deb822, ".list": parse_one_line}.get(path.suffix)
        if parse is not None and path.is_file():
            found += parse(path.read_text(errors="replace"))
    codename = _codename()
    archives = {
        source.uris: source
        for source in reversed(found)
        if _ARCHIVE_COMPONENT in source.components
        and {codename, "stable", "testing", "unstable", "sid"} & set(source.suites)
    }
    # Third parties use the release's name too; the distribution's entries have its keyring.
    return sorted(
        archives.values(), key=lambda source: "archive-keyring" not in str(source.options)
    )


def _codename(os_release: Path = Path("/etc/os-release")) -> str:
    match = re.search(r"^VERSION_CODENAME=(\S+)$", os_release.read_text(), re.MULTILINE)
    return match[1] if match else ""


@dataclass(frozen=True, slots=True)
class PrivateApt:
    """apt for a foreign architecture, with all its state in one directory."""

    home: Path
    architecture: str

    @property
    def archives(self) -> Path:
        """The directory of downloaded packages."""
        return self.home / "cache/archives"

    def update(
        self, suites: Sequence[str], preferences: Mapping[str, str], progress: Progress
    ) -> Source:
        """Fetch and check the package lists of some suites of the machine's archive; return it.

        If the archive cannot be reached, use lists fetched earlier.

        Args:
            suites: their names in the archive.
            preferences: package pattern → pin ("version *" or "release a=stable"), in order.
            progress: called during the download.

        Raises:
            UserError: no configured archive has these suites, or none can be reached.
        """
        self._prepare(preferences)
        remedy = f"add one with {', '.join(suites)} to /etc/apt, then try again"
        complaint = f"the machine's apt sources name no Debian archive: {remedy}"
        for source in machine_sources():
            self._sources.write_text(source.entry(suites, self.architecture))
            try:
                output = self._run(["apt-get", "update"], progress)
            except UserError as error:
                complaint = f"{error}: {remedy}"
                continue
            if any((self.home / "state/lists").glob("*_Packages*")):
                return source
            complaint = f"{_fetch_failure(output)}: check the network and apt's proxy"
        raise UserError(complaint)

    def candidate(self, package: str) -> str:
        """Return the version that apt would install; empty if there is none."""
        policy = self._run(["apt-cache", "policy", package])
        match = re.search(r"Candidate: (\S+)", policy)
        return match[1] if match and match[1] != "(none)" else ""

    def dependencies(self, package: str) -> list[str]:
        """Return the names of the package and its direct and indirect dependencies."""
        tree = self._run(["apt-cache", "depends", "--recurse", "--important", package])
        return [line for line in tree.splitlines() if line[:1].isalnum()]

    def download(self, packages: Sequence[str], progress: Progress) -> list[Path]:
        """Download these packages without their dependencies."""
        return self._fetch(["download", *packages], progress)

    def download_closure(self, packages: Sequence[str], progress: Progress) -> list[Path]:
        """Download these packages and their dependencies."""
        return self._fetch(self._closure(packages), progress)

    def _closure(self, packages: Sequence[str]) -> list[str]:
        return ["install", "--download-only", "--no-install-recommends", "--yes", *packages]

    def installed_size(self, packages: Sequence[str]) -> int:
        """Return the installed size of packages and their dependencies in bytes, by the lists."""
        names = [name.partition("_")[0] for name in self._list(self._closure(packages))]
        shown = self._run(["apt-cache", "show", "--no-all-versions", *names])
        return sum(
            int(kib) << 10 for kib in re.findall(r"^Installed-Size: (\d+)$", shown, re.MULTILINE)
        )

    def _fetch(self, arguments: Sequence[str], progress: Progress) -> list[Path]:
        paths = [self.archives / name for name in self._list(arguments)]
        if not all(path.exists() for path in paths):  # apt puts only complete files there
            self._run(["apt-get", *arguments], progress)
        return paths

    def _list(self, arguments: Sequence[str]) -> list[str]:
        """Return the names of the files that a command needs."""
        # apt lists only what it would fetch, so it gets an empty archive directory.
        nowhere = self.home / "empty"
        place = f"Dir::Cache::archives={nowhere}"
        listing = self._run(
            ["apt-get", "-qq", "--print-uris", "-o", place, *arguments], cwd=nowhere
        )
        return re.findall(r"^'\S+' (\S+\.deb) ", listing, re.MULTILINE)

    @property
    def _sources(self) -> Path:
        return self.home / "etc/sources.list.d/archive.sources"

    def _prepare(self, preferences: Mapping[str, str]) -> None:
        for directory in (
            "etc/sources.list.d",
            "state/lists/partial",
            "cache/archives/partial",
            "empty",
        ):
            (self.home / directory).mkdir(parents=True, exist_ok=True)
        (self.home / "state/status").touch()
        (self.home / "etc/preferences").write_text(
            "\n".join(
                f"Package: {package}\nPin: {pin}\nPin-Priority: {900 - rank}\n"
                for rank, (package, pin) in enumerate(preferences.items())
            )
        )
        (self.home / "etc/apt.conf").write_text(self._configuration())

    def _configuration(self) -> str:
        """Return the machine's Acquire settings and our own directories, without its hooks."""
        dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True)
        inherited = [
            line
            for line in dump.stdout.splitlines()
            if line.startswith("Acquire::") and "IndexTargets" not in line
        ]
        own = {
            "Dir::State": self.home / "state",
            "Dir::State::status": self.home / "state/status",
            "Dir::Cache": self.home / "cache",
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self._sources.parent,
            "Dir::Etc::preferences": self.home / "etc/preferences",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": self.architecture,
            "APT::Architectures::": self.architecture,
            "APT::Sandbox::User": "root",  # apt's own user may have no access to a home directory
            "Acquire::Languages": "none",
        }
        return "\n".join([*inherited, *(f'{key} "{value}";' for key, value in own.items()), ""])

    def _run(
        self, command: Sequence[str], progress: Progress | None = None, cwd: Path | None = None
    ) -> str:
        """Run one apt command and return its output; UserError if it fails."""
        env = os.environ | {"APT_CONFIG": str(self.home / "etc/apt.conf"), "LC_ALL": "C.UTF-8"}
        reader, writer = os.pipe()
        with (
            (self.home / "output").open("w") as output_file,
            subprocess.Popen(
                [command[0], "-o", f"APT::Status-Fd={writer}", *command[1:]],
                cwd=cwd or self.archives,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output_file,
                stderr=subprocess.STDOUT,
                pass_fds=(writer,),
            ) as process,
        ):
            os.close(writer)
            with os.fdopen(reader) as status:
                for line in status:
                    kind, _, rest = line.partition(":")
                    if kind == "dlstatus" and progress is not None:
                        progress(float(rest.split(":")[1]))
        output = (self.home / "output").read_text(errors="replace")
        if process.returncode != 0:
            errors = [line[3:] for line in output.splitlines() if line.startswith("E: ")]
            raise UserError(f"apt: {errors[0] if errors else 'failed without a message'}")
        return output


def _fetch_failure(output: str) -> str:
    """Return the first failure to fetch, which apt reports as a warning."""
    warnings = re.findall(r"^W: (Failed to fetch .*)$", output, re.MULTILINE)
    return f"apt: {warnings[0] if warnings else 'no package lists received'}"


def require_tools(**packages: str) -> None:
    """Check that programs are installed.

    Args:
        packages: program → the Debian package that contains it.

    Raises:
        UserError: one is missing.
    """
    missing = [package for tool, package in packages.items() if find_tool(tool) is None]
    if missing:
        raise UserError(f"missing programs: as root, apt-get install {' '.join(missing)}")


def find_tool(name: str) -> str | None:
    """Return a program's path; search the directories of system administration tools too."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
