"""Container images for tests, as OCI layouts: files in one layer, and what they run."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_OCI = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an image; a directory if it has no content."""

    path: str
    content: bytes | None = None
    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)


def make_layout(
    root: Path,
    members: Sequence[Member],
    config: Mapping[str, object],
    architectures: Sequence[str] = ("arm64",),
) -> Path:
    """Write a layout with the same files for each architecture; return its directory."""
    manifests = [_manifest(root, members, config, each) for each in architectures]
    (top,) = manifests if len(manifests) == 1 else [_index(root, manifests)]
    index = {"schemaVersion": 2, "manifests": [top]}
    (root / "index.json").write_text(json.dumps(index))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


def make_archive(layout: Path, archive: Path) -> Path:
    """Pack a layout as one file."""
    with tarfile.open(archive, "w") as packed:
        packed.add(layout, ".")
    return archive


def _manifest(
    root: Path, members: Sequence[Member], config: Mapping[str, object], architecture: str
) -> dict[str, object]:
    layer = _layer(members)
    digest = hashlib.sha256(layer).hexdigest()
    described = {
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "config": _blob(root, json.dumps(described).encode(), f"{_OCI}.config.v1+json"),
        "layers": [_blob(root, layer, f"{_OCI}.layer.v1.tar")],
    }
    blob = _blob(root, json.dumps(manifest).encode(), f"{_OCI}.manifest.v1+json")
    return blob | {"platform": {"architecture": architecture, "os": "linux"}}


def _index(root: Path, manifests: list[dict[str, object]]) -> dict[str, object]:
    data = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    return _blob(root, data, f"{_OCI}.index.v1+json")


def _layer(members: Sequence[Member]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as layer:
        for member in members:
            info = tarfile.TarInfo(member.path)
            info.mode, (info.uid, info.gid) = member.mode, member.owner
            info.type = tarfile.DIRTYPE if member.content is None else tarfile.REGTYPE
            info.size = len(member.content or b"")
            layer.addfile(info, io.BytesIO(member.content or b""))
    return data.getvalue()


def _blob(root: Path, data: bytes, kind: str) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    path = root / "blobs" / "sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}
