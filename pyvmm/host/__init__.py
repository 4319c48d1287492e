"""The hypervisor half of the normal world: what KVM is to kvmtool.

It talks to the realm world only through the SMC waist and sees memory only through its
Non-secure view.  It must not import ``monitor``, ``rmm`` or ``hes``.
"""
