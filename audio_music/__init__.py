"""Speech and music."""
