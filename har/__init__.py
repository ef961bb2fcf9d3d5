"""Human activity from skeletons and inertial sensors."""
