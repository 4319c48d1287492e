"""The Realm Management Monitor: RMM 1.0 at R-EL2, in Python.

It serves the host's RMI commands and the realms' RSI and PSCI calls.  ``rmm.rmm.Rmm`` is the whole
of it; memory, PEs, EL3 and the attestation service come to it through ``rmm.protocols``.
"""
