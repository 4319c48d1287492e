"""The architecture, declared once: registers, descriptors and ABI structures, without behaviour."""
