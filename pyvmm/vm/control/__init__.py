"""Instances: their life cycle, their API, and its servers and clients."""
