"""The dissertation's dynamic momentum around any training: each layer with the momentum of least estimation shift."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from truenorm.errors import NotMeasurable
from truenorm.model.evaluate import Forward
from truenorm.model.mask import Mask
from truenorm.model.measure import measure
from truenorm.model.statistics import assign
from truenorm.model.watch import Watch
from truenorm.rules import SWEEP, Static
from truenorm.stats.statistics import Statistics


def dmbn(
    model: nn.Module,
    data: Iterable[Any],
    *,
    momenta: tuple[float, ...] = SWEEP,
    forward: Forward | None = None,
    mask: Mask | None = None,
) -> "DynamicMomentum":
    r"""Train in the block; after it each layer has the statistics of the momentum of least estimation shift (DMBN).

    Every momentum k is followed in the one training run. At the end of the block the population statistics are
    measured over the data, and each layer stores the running statistics under

    $$ \arg\min_k \; \mathrm{mean}_c \frac{(\hat\mu_{kc} - \mu_c)^2 + (\hat\sigma_{kc} - \sigma_c)^2}{\sigma_c^2} $$

    It needs a pass over the data to choose, and what that pass measures (`tn.repair`) is nearer to the population than
    any choice. Without a pass: `nn.BatchNorm2d(..., tracking="dynamic")`.

    Args:
        model: the network.
        data: training batches as `measure` takes them, of the batch size of training.
        momenta: to choose from; torch's, the weight of the new batch. The dissertation's β is 1 − momentum.
        forward, mask: as for `measure`.

    Returns:
        a context manager; where the block raises, the model keeps what it has.

    Raises:
        what `watch` and `measure` raise.
        NotMeasurable: nothing was trained in the block.

    Source: "Understanding Batch-Normalization in Deep Neural Networks" (2025).

    Example:
        >>> import torch
        >>> from torch import optim
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        >>> optimizer = optim.SGD(net.parameters(), 0.1)
        >>> batches = [torch.randn(16, 4) for _ in range(8)]
        >>> with dmbn(net, batches, momenta=(0.01, 0.1, 0.5)) as chosen:
        ...     for x in batches:
        ...         loss = net(x).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         _ = optimizer.step()
        >>> momentum, beta = chosen.statistics.momenta["1"], chosen.statistics.betas["1"]
        >>> momentum in (0.01, 0.1, 0.5), beta == 1 - momentum
        (True, True)
    """
    return DynamicMomentum(model, data, momenta=momenta, forward=forward, mask=mask)


class DynamicMomentum:
    """The result of `dmbn`: a context around training, and what was chosen.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.BatchNorm1d(2))
        >>> with dmbn(net, [torch.randn(8, 2)], momenta=(0.1,)) as chosen:
        ...     _ = net(torch.randn(8, 2))
        >>> chosen.statistics.betas
        {'0': 0.9}
    """

    def __init__(
        self,
        model: nn.Module,
        data: Iterable[Any],
        *,
        momenta: tuple[float, ...],
        forward: Forward | None,
        mask: Mask | None,
    ) -> None:
        self._model, self._data, self._forward, self._mask = model, data, forward, mask
        self._statistics: Statistics | None = None
        self.watch = Watch(model, (Static(momenta),), mask)
        """Every momentum of the run, by name; its `state_dict` is what a run needs to go on."""

    def __enter__(self) -> "DynamicMomentum":
        self.watch.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.watch.__exit__()
        if kind is None:
            self.choose()

    def choose(self) -> Statistics:
        """Measure the population, choose, and store what was chosen in the model: at an epoch's end, say."""
        population = measure(self._model, self._data, forward=self._forward, mask=self._mask)
        self._statistics = self.watch.best(population)
        assign(self._model, self._statistics)
        return self._statistics

    @property
    def statistics(self) -> Statistics:
        """What was chosen last: `momenta` and `betas` say which momentum each layer took.

        Raises:
            NotMeasurable: the block has not ended.
        """
        if self._statistics is None:
            raise NotMeasurable("nothing was chosen yet: that happens at the end of the block, or in choose()")
        return self._statistics
