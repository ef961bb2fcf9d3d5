"""Methods for speech and music, one a file."""
