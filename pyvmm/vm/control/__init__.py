"""Instances: their life, their API, and the processes that serve it and call it."""
