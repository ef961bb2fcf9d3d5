"""Recordings and scores, from files to batches on the device."""
