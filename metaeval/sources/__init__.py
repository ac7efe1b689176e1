"""Where models, data and shifts come from."""
