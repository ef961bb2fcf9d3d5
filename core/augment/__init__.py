"""Random views made on the device, for a whole batch at once."""
