"""Models of other frameworks, and black boxes, as torch modules."""
