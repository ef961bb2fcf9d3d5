"""Hydra configs of the methods that belong to no domain."""
