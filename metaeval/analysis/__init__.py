"""Statistics of a cube: numpy cores under thin xarray faces, no torch."""
