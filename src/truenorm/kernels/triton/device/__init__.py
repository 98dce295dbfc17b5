"""What runs on the GPU. Not quite Python: Triton compiles it, and its types are none that checkers know."""
