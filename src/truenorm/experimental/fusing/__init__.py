"""Batch norm → (addition) → activation as one call.

`trace` (one forward as a graph) → `pattern` (what can be fused in it) → `owners` (classes with a generated forward);
`layers` (the batch norms of a fused copy), `activation` (which modules are known), `comparison` (of model and copy)
→ `fuse`.
"""
