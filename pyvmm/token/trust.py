"""Trust anchors: which key (CPAK) may sign for which platform."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pyvmm.token.keys import instance_id_of, load_public_key, read_key
from pyvmm.token.reference import ReferenceValues

KEY_SUFFIXES: Final = (".pem", ".der", ".jwk")
REFERENCE_SUFFIX: Final = ".json"
HES_KEY: Final = "cpak.pem"  # written by our HES beside its state


@dataclass(frozen=True, slots=True)
class Anchor:
    """A key, and the platforms it may sign for; an id that is None matches all."""

    public: bytes  # SEC1 point
    implementation_id: bytes | None = None
    instance_id: bytes | None = None

    def may_sign_for(self, implementation_id: bytes, instance_id: bytes) -> bool:
        """Check whether the key may sign for a platform."""
        return self.implementation_id in {None, implementation_id} and self.instance_id in {
            None,
            instance_id,
        }


@dataclass(frozen=True, slots=True)
class TrustStore:
    """A set of anchors."""

    anchors: tuple[Anchor, ...] = ()

    def find(self, implementation_id: bytes, instance_id: bytes) -> Anchor | None:
        """Return the anchor of a platform."""
        fitting = (a for a in self.anchors if a.may_sign_for(implementation_id, instance_id))
        return next(fitting, None)

    @classmethod
    def load(cls, directories: Iterable[Path]) -> Self:
        """Return the anchors from the files in some directories.

        A bare key signs for the instance id derived from its hash; the key in a file of
        reference values signs for the platform named there.

        Raises:
            UserError: a file is not what its suffix says.
        """
        paths = [
            path
            for directory in directories
            if directory.is_dir()
            for path in sorted(directory.iterdir())
        ]
        return cls(tuple(anchor for path in paths if (anchor := _anchor(path)) is not None))


def hes_anchors(directory: Path) -> TrustStore:
    """Return the anchors of the platforms whose HES state is in or below a directory."""
    paths = [directory / HES_KEY, *sorted(directory.glob(f"*/{HES_KEY}"))]
    return TrustStore(
        tuple(anchor for path in paths if path.is_file() and (anchor := _anchor(path)) is not None)
    )


def anchor_of(values: ReferenceValues) -> Anchor | None:
    """Return the anchor in reference values."""
    platform = values.platform
    if platform.cpak is None:
        return None
    instance_id = platform.instance_id or instance_id_of(platform.cpak)
    return Anchor(platform.cpak, platform.implementation_id, instance_id)


def _anchor(path: Path) -> Anchor | None:
    if path.suffix in KEY_SUFFIXES:
        public = load_public_key(read_key(path), str(path))
        return Anchor(public, instance_id=instance_id_of(public))
    if path.suffix == REFERENCE_SUFFIX:
        return anchor_of(ReferenceValues.load(path))
    return None
