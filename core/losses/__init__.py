"""Objectives, one a file: torch in, a scalar out."""
