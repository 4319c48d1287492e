"""The hardware-enforced security module: root of trust of the platform, a process of its own.

It holds the keys, measures what boots and signs the platform token.  Start reading at
``services.py``; ``client.py`` is the only module that others import, and knows no key.
"""
