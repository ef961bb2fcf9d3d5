"""Rasters of satellites: read, checked, cut into chips, generated."""
