"""Virtual machines: images, loaders, the device tree, and the life of an instance."""
