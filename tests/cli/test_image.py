"""pyvmm image: images with names."""

import json
from pathlib import Path

import msgspec
import pytest

from pyvmm.vm.images.debian import Image, Manifest, Recipe
from pyvmm.vm.images.lock import building
from pyvmm.vm.images.store import Store
from tests.cli.inside import verb


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a user's images: one that is current, one of an earlier version, a broken one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = Store(tmp_path / "pyvmm")
    recipe = Recipe(("make",))
    put(store, "debian", Manifest(recipe.digest, recipe, "7.2.12", ["make_4"], 1_700_000_000.0))
    put(store, "old", Manifest("another", Recipe(), "6.13", [], 1_600_000_000.0))
    store.place("broken").mkdir()
    store.place("broken").joinpath("image.json").write_text("[" * 100_000)
    return store


def put(store: Store, name: str, manifest: Manifest) -> None:
    """Make the files of an image."""
    image = Image(store.place(name))
    image.directory.mkdir(parents=True)
    for path in (image.kernel, image.initrd, image.rootfs):
        path.write_bytes(bytes(8192))
    image.manifest.write_bytes(msgspec.json.encode(manifest))


def test_list_shows_complete_images(store: Store) -> None:
    """By name; as a table, as names, as JSON."""
    del store
    lines = verb("image", "list").output.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["NAME", "KERNEL"], ["debian", "7.2.12"], ["old", "6.13"],
    ]  # fmt: skip
    assert verb("image", "list", "-q").output == "debian\nold\n"
    listed = json.loads(verb("image", "list", "--json").output)
    assert [(each["name"], each["is_current"]) for each in listed] == [
        ("debian", True), ("old", False),
    ]  # fmt: skip


def test_without_images_list_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is created by looking."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert verb("image", "list", "-q").output == ""
    assert verb("image", "list", "--json").output == "[]\n"
    assert not (tmp_path / "none").exists()


def test_inspect_shows_the_recipe(store: Store) -> None:
    """And whether another build would differ."""
    ended = verb("image", "inspect", "debian")
    assert f"directory  {store.place('debian')}\n" in ended.output
    assert "with       make\n" in ended.output
    assert "current    yes\n" in ended.output
    assert "current    no" in verb("image", "inspect", "old").output
    found = json.loads(verb("image", "inspect", "debian", "--json").output)
    assert found["recipe"] == {
        "packages": ["make"], "size": 0, "kernel": "cloud-arm64", "profile": "minimal",
    }  # fmt: skip


def test_rm_removes_each_image(store: Store) -> None:
    """A name without an image is an error; the others are removed."""
    ended = verb("image", "rm", "none", "old", "old")
    assert (ended.code, ended.output) == (2, "")
    assert ended.errors == "pyvmm: no image none: pyvmm image list shows all images\n"
    assert [each.name for each in store.all()] == ["debian"]


def test_prune_frees_what_no_image_needs(store: Store) -> None:
    """Packages and remains; with --all, the images too."""
    package = store.cache / "apt-arm64/cache/archives/make.deb"
    package.parent.mkdir(parents=True)
    package.write_bytes(bytes(4096))
    remains = store.place("debian") / ".build-x"
    remains.mkdir()
    (remains / "file").write_bytes(bytes(4096))
    assert verb("image", "prune").output == "freed 8.0 KiB\n"
    assert not package.exists()
    assert not remains.exists()
    assert [each.name for each in store.all()] == ["debian", "old"]
    assert verb("image", "prune", "--all").output.startswith("freed ")
    assert store.all() == []


def test_prune_waits_for_a_build(store: Store) -> None:
    """It would remove the packages that the build unpacks."""

    def wait() -> None:
        raise TimeoutError

    with building(store.cache), pytest.raises(TimeoutError), building(store.cache, wait):
        pytest.fail("two builds")


def test_name_of_no_image_is_refused(store: Store) -> None:
    """Whether it is meant as a kernel or as an image."""
    del store
    complaint = (
        "pyvmm: none is neither an image (pyvmm image list) nor a kernel's file:"
        " pyvmm image build debian --name none builds an image\n"
    )
    for line in ("run none", "create a none", "run --image none", "measure --realm none"):
        ended = verb(*line.split())
        assert (ended.code, ended.output, ended.errors) == (2, "", complaint), line
    assert "give one" in verb("run", "debian", "--image", "old").errors
    assert "give one" in verb("image", "build", "debian", "--name", "a", "-o", "b").errors
    assert "name '../a'" in verb("image", "build", "debian", "--name", "../a").errors
    assert "--persist requires an image" in verb("run", "--persist").errors


def test_configuration_can_name_an_image(store: Store, tmp_path: Path) -> None:
    """A kernel of the user's replaces the image's; a file is a kernel, whatever its name."""
    del store
    shown = verb("config", "show", "--set", "debian", "-k", "Image").output
    assert shown == 'kernel = "Image"\nimage = "debian"\n'
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        Path("debian").touch()
        assert verb("config", "show", "--set", "debian").output == 'kernel = "debian"\n'
