"""Guests for Python programs: the instances of the command line, over the same API."""
