"""Images and loaders: making the files of a guest, and reading them."""
