"""Devices of the normal world: pure logic behind an MMIO bus and a DMA view; no VM, no PE."""
