"""A stub of GDB's remote protocol: any debugger that speaks it can look into a guest.

``packets`` is the framing, ``target`` the description of the registers, ``stub`` what each command
does, ``server`` the socket.  Spec: "Debugging with GDB", appendix "GDB Remote Serial Protocol".
"""
