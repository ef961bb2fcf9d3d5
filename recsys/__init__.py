"""Recommenders from interactions, images and texts."""
