"""3D CT with reports, and pathology."""
