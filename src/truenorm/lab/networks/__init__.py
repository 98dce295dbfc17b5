"""Networks and norms by name."""
