"""Images and loaders: build and read the files of a guest."""

from typing import Final

#: The initial RAM disk of an image, beside its kernel.
INITRD_NAME: Final = "initrd.img"
