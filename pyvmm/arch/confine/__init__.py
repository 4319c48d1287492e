"""Giving up what a process does not need: Landlock, seccomp, limits; for the HES and instances."""
