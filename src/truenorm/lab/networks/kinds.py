"""The kinds of norm that networks are trained with; without torch, for the command's options."""

from typing import Literal

Norm = Literal["bn", "bn-bfn", "gn"]
"""What a network is normalised by: batch norm, batch and batch-free norm in turn, group norm."""
