"""A stub of GDB's remote protocol: any debugger that supports it can inspect a guest.

``packets`` has the framing, ``target`` the description of the registers, ``stub`` the commands,
``server`` the socket.  Spec: "Debugging with GDB", appendix "GDB Remote Serial Protocol".
"""
