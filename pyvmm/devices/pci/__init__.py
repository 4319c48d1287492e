"""PCI: configuration spaces, MSI-X, and the host bridge that gives a guest access to them."""
