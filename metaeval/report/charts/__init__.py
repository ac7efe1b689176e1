"""Our figures, one module each."""
