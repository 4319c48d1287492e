"""EL3: owns the granule protection table and routes SMCs between the worlds.

Start reading at ``monitor.py``.  It imports ``pyvmm.arch`` and nothing else of ours.
"""
