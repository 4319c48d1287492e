"""The architecture, declared once: registers, descriptors, ABI structures.  No behaviour."""
