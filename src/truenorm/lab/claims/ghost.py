"""Batch norm with another batch than the one it is trained on: smaller ones, and all there is."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from truenorm.lab.networks.norms import BatchNorm


class GhostBatchNorm(BatchNorm):
    r"""Batch norm for [N, C] that takes its moments over groups of `size` samples of the batch.

    $$ y_i = \gamma \, \frac{x_i - m_{g(i)}}{\sqrt{v_{g(i)} + \epsilon}} + \beta $$

    The smaller the groups, the noisier the moments, while the step of the optimizer stays that of the whole batch. Its
    running statistics are not to be used: what inference needs is measured afterwards. The state dict is batch norm's.

    Args:
        num_channels: C.
        size: samples of a group; what is over of a batch is in the last group.

    Source: Hoffer et al. 2017.

    Example:
        >>> y = GhostBatchNorm(1, size=2)(torch.tensor([[0.0], [2.0], [10.0], [30.0]]))
        >>> [round(value, 3) for value in y.flatten().tolist()]
        [-1.0, 1.0, -1.0, 1.0]
    """

    def __init__(self, num_channels: int, *, size: int) -> None:
        super().__init__(num_channels)
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        groups, over = divmod(len(input), self.size)
        groups -= over > 0  # the last one is larger
        if not self.training or groups < 2:
            return super().forward(input)
        whole = groups * self.size
        # Groups side by side as channels: one call of torch's kernel for all of them.
        beside = input[:whole].view(groups, self.size, -1).transpose(0, 1).reshape(self.size, -1)
        normed = F.batch_norm(beside, None, None, self.weight.repeat(groups), self.bias.repeat(groups), training=True)
        out = normed.view(self.size, groups, -1).transpose(0, 1).reshape(whole, -1)
        rest = input[whole:]
        return out if not len(rest) else torch.cat([out, super().forward(rest)])


class Accompanied(nn.Module):
    """A network that in training sees given images beside each batch, and gives the outputs of the batch alone.

    With all N training images beside n of them its batch norms have hardly any noise: moments of all images, in which
    those of the batch count twice. What is left is a share n / (N + n) of the noise of a batch.

    Args:
        network: with batch norm.
        images: that go with each batch.

    Example:
        >>> network = Accompanied(nn.BatchNorm1d(1, affine=False), torch.tensor([[0.0], [2.0]]))
        >>> round(network(torch.tensor([[1.0]])).item(), 3)
        0.0
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.network = network
        self._images = images  # no buffer: they are data, not state

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return self.network(input)
        return self.network(torch.cat([input, self._images]))[: len(input)]
