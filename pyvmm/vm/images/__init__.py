"""Images and loaders: build and read the files of a guest."""
