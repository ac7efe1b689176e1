"""From a study to a cube: plan, sources and attacks put to work."""
