"""Batch-free normalization: each sample normalised by itself, the same in training and inference."""

from torch import Tensor, nn

from truenorm.errors import InvalidInput

SMALLEST_GROUP = 4
"""Values per group below which a batch-free norm collapses: w values keep w − 2 degrees of freedom."""


class BatchFreeNorm(nn.GroupNorm):
    r"""Group norm for (N, C, ...) that refuses groups too small to carry information.

    $$ y = \frac{x - \mu_{ig}}{\sqrt{\sigma_{ig}^2 + \epsilon}} \gamma_c + \beta_c $$

    with mean and biased variance over the channels of group g and all positions of sample i. One group is
    layer norm over channels and positions; as many groups as channels is instance norm. Placed between
    batch norms it keeps estimation shift from accumulating (BN-BFN).

    Args:
        num_groups: G; it divides the channels.
        num_channels: C.
        eps: ε.
        affine: learn γ and β, of shape (C,).

    Raises:
        InvalidInput: G does not divide C; or, when a batch comes, a group has fewer than 4 values
            (for vectors: fewer than 4 channels): two values can only give ±1, one value only 0.

    Source: Huang et al. 2022, whose code takes group norm; Wu & He 2018.

    Example:
        >>> import torch
        >>> BatchFreeNorm(2, 8)(torch.randn(3, 8)).shape
        torch.Size([3, 8])
        >>> BatchFreeNorm(4, 8)(torch.randn(3, 8))
        Traceback (most recent call last):
        truenorm.errors.InvalidInput: 4 groups of 8 channels leave 2 values per group ...
    """

    def __init__(self, num_groups: int, num_channels: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        if num_groups < 1 or num_channels % num_groups:
            divisors = [str(g) for g in range(1, num_channels + 1) if num_channels % g == 0]
            raise InvalidInput(
                f"{num_groups} groups do not divide {num_channels} channels; these do: {', '.join(divisors)}"
            )
        super().__init__(num_groups, num_channels, eps=eps, affine=affine)

    def forward(self, input: Tensor) -> Tensor:
        values = input.numel() // max(1, input.shape[0] * self.num_groups)
        if 0 < values < SMALLEST_GROUP:
            raise InvalidInput(
                f"{self.num_groups} groups of {self.num_channels} channels leave {values} values per group for input "
                f"{tuple(input.shape)}; below {SMALLEST_GROUP} a group's output collapses, so take fewer groups"
            )
        return super().forward(input)


def groups_of_16(num_channels: int) -> int:
    """The largest number of groups of at least 16 channels; smaller networks get groups of at least 4.

    Example:
        >>> groups_of_16(64), groups_of_16(12)
        (4, 3)
    """
    width = 16 if num_channels >= 32 else SMALLEST_GROUP
    return max(g for g in range(1, max(1, num_channels // width) + 1) if num_channels % g == 0)
