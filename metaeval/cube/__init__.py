"""The labelled store: layout, journal, writing, aggregates, opening, verifying."""
