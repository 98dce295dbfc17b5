"""Jobs that are done once, by whatever executes them, and join to one record."""
