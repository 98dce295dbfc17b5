"""Callbacks for trainers: why validation falls behind, and checkpoints whose statistics are true.

Each is imported by its own name (`from truenorm.integrations.lightning import TrueNorm`) and needs its extra.
"""
