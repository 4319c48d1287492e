"""Diagnosis of guests that fail: what is known about them, and what the user can try."""
