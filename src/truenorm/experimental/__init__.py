"""Features off the main path: no other part of truenorm uses them, and they may change without notice."""

from truenorm.experimental.fusing.fuse import fuse, unfuse

__all__ = ["fuse", "unfuse"]
