"""Training of small networks, and what is measured of them with nothing of truenorm's."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Loss = Callable[[nn.Module, Any], Tensor]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cut(*parts: Tensor, size: int) -> list[tuple[Tensor, ...]]:
    """Tensors of one length as batches."""
    return list(zip(*(part.split(size) for part in parts), strict=True))


def norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def fit(
    model: nn.Module, batches: Sequence[Any], loss: Loss, *, seed: int, epochs: float = 3, rate: float = 3e-3
) -> nn.Module:
    """Adam with a cosine rate over batches in random order; left in eval()."""
    learning = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(learning, rate)
    steps, generator = max(1, round(epochs * len(batches))), seeded(seed)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (1 + math.cos(math.pi * t / steps)) / 2)
    model.train()
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        optimizer.zero_grad()
        loss(model, batches[order.pop()]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def recalibrated(model: nn.Module, batches: Sequence[Any], run: Callable[[nn.Module, Any], Any]) -> nn.Module:
    """A copy whose statistics are plain averages over these batches; all that is not batch norm is in eval()."""
    mended = copy.deepcopy(model).eval()
    for layer in norms(mended):
        layer.reset_running_stats()
        layer.momentum = None
        layer.training = True
    with torch.no_grad():
        for batch in batches:
            run(mended, batch)
    return mended.eval()


def overwrite(layer: Any, seed: int, *, by: float = 1.5, times: float = 1.0) -> None:
    """Move a layer's means by so many σ, up or down by channel, and multiply its variances."""
    mean, variance = layer.running_mean, layer.running_var
    side = torch.randint(0, 2, mean.shape, generator=seeded(seed)) * 2 - 1
    mean += by * side * variance.sqrt()
    variance *= times


@contextmanager
def by_batch(model: nn.Module) -> Iterator[None]:
    """Batch norm divides by each batch, as in train(); nothing is stored, and all else is in eval()."""
    kept = copy.deepcopy(model.state_dict())
    model.eval()
    for layer in norms(model):
        layer.training = True
    try:
        yield
    finally:
        model.load_state_dict(kept)
        model.eval()


def measured(
    model: nn.Module, batches: Sequence[Any], score: Callable[[Any, Any], Tensor], run: Callable[[nn.Module, Any], Any]
) -> float:
    """Mean score in the mode that the model is in."""
    with torch.no_grad():
        return float(torch.cat([score(run(model, batch), batch).double().flatten() for batch in batches]).mean())


def plainly(model: nn.Module, batch: Any) -> Any:
    """Run the first part of a batch."""
    return model(batch[0])


def hit(output: Tensor, batch: Any) -> Tensor:
    """Is the class right? One number for each sample."""
    return (output.argmax(1) == batch[1]).double()
