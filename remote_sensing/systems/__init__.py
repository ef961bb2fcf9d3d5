"""One file a method of radar and optical images."""
