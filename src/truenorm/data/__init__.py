"""What the user brings: batches of any loader, checkpoints, and objects named by `file.py:name`."""
