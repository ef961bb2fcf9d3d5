"""Files of medicine: volumes with their reports, patches and slides."""
