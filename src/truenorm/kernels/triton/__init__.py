"""Triton kernels: batch norm, what follows it, and their gradients, in as few sweeps over memory as there can be.

Forward: `stats` → `finalize` → `apply`; backward: `bwd_reduce` → `bwd_finalize` → `bwd_apply`. `tile` is what all of
them share, `plan` says who does what, `stages` launches, `operators` makes operators of it, `autograd` their
gradients, `backend` the whole a backend.
"""
