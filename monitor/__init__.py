"""EL3: owns the granule protection table and routes SMCs between the worlds.

Start reading at ``monitor.py``.  The package imports nothing of ours but ``pyvmm.arch``.
"""
