"""From a cube to one static page: sentences, figures, tables."""
