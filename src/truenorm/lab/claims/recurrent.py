"""An LSTM that reads an image row by row, with batch norm or layer norm inside, after Cooijmans et al. 2017.

N = images, T = steps (rows), C = channels of a norm, H = hidden size
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

StepNorm = Callable[..., nn.Module]
"""Makes a norm that is called with values (N, C) and the step, from C and, by keyword, whether it has a β."""


class StepBatchNorm(nn.Module):
    """Batch norm of the values of one step, with one set of running statistics, or one for each step.

    In training each step is normalised by its own batch in any case; γ and β are the same at all steps.

    Args:
        num_channels: C.
        steps: how many sets of statistics; of step t the set t is used, or the last there is.
        gain: what γ starts at.
        shift: whether there is a β.

    Example:
        >>> norm = StepBatchNorm(3, steps=8, gain=0.1)
        >>> norm(torch.randn(16, 3), 5).shape, norm.running_mean.shape
        (torch.Size([16, 3]), torch.Size([8, 3]))
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        steps: int = 1,
        gain: float = 1.0,
        shift: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_channels,), gain))
        self.bias = nn.Parameter(torch.zeros(num_channels)) if shift else None
        self.register_buffer("running_mean", torch.zeros(steps, num_channels))
        self.register_buffer("running_var", torch.ones(steps, num_channels))
        self.momentum, self.eps = momentum, eps

    def forward(self, input: Tensor, step: int) -> Tensor:
        place = min(step, len(self.running_mean) - 1)
        mean, var = self.running_mean[place], self.running_var[place]
        return F.batch_norm(input, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)


class StepLayerNorm(nn.LayerNorm):
    """Layer norm, the same at all steps.

    Example:
        >>> StepLayerNorm(3)(torch.randn(16, 3), 5).shape
        torch.Size([16, 3])
    """

    def __init__(self, num_channels: int, *, shift: bool = True) -> None:
        super().__init__(num_channels, bias=shift)

    def forward(self, input: Tensor, step: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(input)


class NoNorm(nn.Module):
    """Nothing: an LSTM has biases of its own.

    Example:
        >>> NoNorm(3)(torch.zeros(1, 3), 5)
        tensor([[0., 0., 0.]])
    """

    def __init__(self, num_channels: int, *, shift: bool = True) -> None:
        super().__init__()

    def forward(self, input: Tensor, step: int) -> Tensor:
        return input


class RowLSTM(nn.Module):
    r"""An LSTM over the rows of an image, whose last output a linear layer takes to the classes.

    $$ (i, f, g, o) = \mathrm{norm}_h(W_h h_{t-1}) + \mathrm{norm}_x(W_x x_t) + b $$
    $$ c_t = \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g), \qquad
       h_t = \sigma(o) \odot \tanh(\mathrm{norm}_c(c_t)) $$

    norm_h and norm_x have no β, since b does the same; b is 1 for the forget gate f, and 0 otherwise.

    Args:
        input_shape: (channels, height, width) of an image; a step reads a row of all channels.
        num_classes: outputs.
        norm_layer: makes the three norms.
        hidden: H.

    Source: Cooijmans et al. 2017; without norm Hochreiter & Schmidhuber 1997, forget gate after Gers et al. 2000.

    Example:
        >>> RowLSTM((1, 8, 8), 10, hidden=16)(torch.randn(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self, input_shape: tuple[int, int, int], num_classes: int, *, norm_layer: StepNorm = NoNorm, hidden: int
    ) -> None:
        super().__init__()
        channels, _, width = input_shape
        self.hidden = hidden
        self.from_input = nn.Linear(channels * width, 4 * hidden, bias=False)
        self.from_hidden = nn.Linear(hidden, 4 * hidden, bias=False)
        self.bias = nn.Parameter(torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(hidden))
        self.input_norm = norm_layer(4 * hidden, shift=False)
        self.hidden_norm = norm_layer(4 * hidden, shift=False)
        self.cell_norm = norm_layer(hidden, shift=True)
        self.classes = nn.Linear(hidden, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        rows_TND = input.permute(2, 0, 1, 3).flatten(2)
        inputs = self.from_input(rows_TND)
        h = c = input.new_zeros(len(input), self.hidden)
        for step, values in enumerate(inputs):
            gates = self.input_norm(values, step) + self.hidden_norm(self.from_hidden(h), step) + self.bias
            i, f, g, o = gates.chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * self.cell_norm(c, step).tanh()
        return self.classes(h)
