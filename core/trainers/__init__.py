"""Training on Lightning: the System base, fit, checkpoints, logs."""
