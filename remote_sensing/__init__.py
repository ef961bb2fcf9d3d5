"""SAR and optical satellite images."""
