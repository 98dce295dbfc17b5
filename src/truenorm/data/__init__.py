"""Batches of any loader, image sets in memory, and objects named on the command line."""
