"""How a private apt is derived from the machine's own sources."""

import shutil
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.images import apt
from pyvmm.vm.images.apt import PrivateApt, Source, machine_sources, parse_deb822, parse_one_line

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: stable stable-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://off.test/debian
Suites: stable
Components: main
Enabled: no

Types: deb-src
URIs: http://source.test/debian
Suites: stable
Components: main
"""


def test_deb822_gives_enabled_binary_sources_with_their_key() -> None:
    """A disabled or source-only stanza is left out; an inline key stays complete."""
    (source,) = parse_deb822(DEB822)
    assert source.uris == "http://mirror.test/debian"
    assert source.suites == ("stable", "stable-updates")
    assert dict(source.options)["Signed-By"].splitlines()[-1] == " abc"


def test_one_line_gives_sources_with_their_options() -> None:
    """Options in brackets keep their meaning; comments and deb-src lines are not sources."""
    text = (
        "# deb http://no.test/debian stable main\n"
        "deb-src http://no.test/debian stable main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian stable main contrib # x\n"
    )
    assert list(parse_one_line(text)) == [
        Source(
            "http://mirror.test/debian",
            ("stable",),
            ("main", "contrib"),
            (("Signed-By", "/k.gpg"),),
        )
    ]


def test_entry_asks_for_other_suites_of_the_same_archive() -> None:
    """An entry written for the private apt is read back as the same archive with the same key."""
    (source,) = parse_deb822(DEB822)
    (copy,) = parse_deb822(source.entry(["testing"], "arm64"))
    assert (copy.uris, copy.suites, copy.options) == (source.uris, ("testing",), source.options)


def test_machine_sources_prefer_the_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Third parties use the release's name too, but not the distribution's keyring."""
    monkeypatch.setattr(apt, "_codename", lambda: "name")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/a.list").write_text(
        "deb http://third.test/debian name main\ndeb http://other.test/x name extras\n"
    )
    (tmp_path / "sources.list.d/b.sources").write_text(
        "Types: deb\nURIs: http://d.test/\nSuites: name\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/some-archive-keyring.gpg\n"
    )
    assert [source.uris for source in machine_sources(tmp_path)] == [
        "http://d.test/",
        "http://third.test/debian",
    ]


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here")
def test_archive_out_of_reach_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is only a warning of apt's; lists fetched earlier are used if there are any."""
    source = Source("http://127.0.0.1:1/debian", ("stable",), ("main",))
    monkeypatch.setattr(apt, "machine_sources", lambda: [source])
    machine = tmp_path / "machine.conf"
    machine.write_text('Acquire::Retries "0";\n')  # the retries take seconds
    monkeypatch.setenv("APT_CONFIG", str(machine))
    private = PrivateApt(tmp_path, "arm64")
    with pytest.raises(UserError, match=r"Failed to fetch.*check the network") as refusal:
        private.update(["stable"], {}, lambda _: None)
    assert "\n" not in str(refusal.value)
    (tmp_path / "state/lists/archive_dists_stable_main_binary-arm64_Packages").touch()
    private.update(["stable"], {}, lambda _: None)


PACKAGES = """\
Package: small
Version: 1:2
Architecture: arm64
Depends: large
Installed-Size: 10
Filename: pool/small.deb
Size: 4
SHA256: {0}

Package: large
Version: 3
Architecture: arm64
Installed-Size: 2000
Filename: pool/large.deb
Size: 4
SHA256: {0}
""".format("0" * 64)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here")
def test_installed_size_is_that_of_all_that_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package lists have it: nothing is fetched."""
    lists = tmp_path / "archive/dists/stable/main/binary-arm64"
    lists.mkdir(parents=True)
    (lists / "Packages").write_text(PACKAGES)
    source = Source(f"file:{tmp_path}/archive", ("stable",), ("main",), (("Trusted", "yes"),))
    monkeypatch.setattr(apt, "machine_sources", lambda: [source])
    private = PrivateApt(tmp_path / "apt", "arm64")
    private.update(["stable"], {}, lambda _: None)
    assert private.installed_size(["small"]) == 2010 << 10
