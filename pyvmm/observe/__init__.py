"""The observer: reads the whole machine, all worlds of it, and changes nothing.

No host can see what it sees; looking is the privilege of the simulator.  Only the composition root
imports this package.
"""
