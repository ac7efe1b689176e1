"""Statistics of a cube: numpy cores under thin xarray faces, no torch.

Faces take confidence and seed from the study unless they are given.
"""
