"""The Realm Management Monitor: RMM 1.0 at R-EL2, in Python.

It serves the host's RMI commands and the realms' RSI and PSCI calls.  ``rmm.rmm.Rmm`` is the entry
point; it accesses memory, PEs and EL3 through ``rmm.protocols``.
"""
