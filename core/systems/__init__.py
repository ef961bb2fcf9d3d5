"""Methods that belong to no domain, one a file."""
