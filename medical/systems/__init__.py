"""Methods of medicine, one file each."""
