"""Evaluation: rankings, statistics."""
