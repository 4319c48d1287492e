"""The hardware-enforced security module (HES): the platform's root of trust, in its own process.

It holds the keys, measures the boot and signs the platform token.  Start reading at
``services.py``; ``client.py`` is the only module that others import, and contains no key.
"""
