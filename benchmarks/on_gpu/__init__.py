"""What `gpu.py` measures, file by file; only torch, triton, numpy and truenorm's kernels and layers are needed."""
