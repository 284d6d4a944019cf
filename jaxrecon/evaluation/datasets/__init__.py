"""Sets of scenes with known geometry: one file a format."""
