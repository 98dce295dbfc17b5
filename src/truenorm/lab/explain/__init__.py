"""Batch norm explained by running it: `layer` is what is shown, `walk` how."""
