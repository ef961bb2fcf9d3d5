"""Methods for skeletons and inertial sensors, one a file."""
