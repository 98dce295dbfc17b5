"""Image sets: where they come from, what is drawn from them, and batches of them."""
