"""What the callbacks share: their settings, and what they do to a run beside it, in its modes, without ending it."""

import math
import warnings
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from truenorm.doctor.diagnose import diagnose
from truenorm.doctor.diagnosis import Diagnosis
from truenorm.doctor.repair import Repair, repair
from truenorm.doctor.score import Score
from truenorm.errors import InvalidInput, TruenormError, UnknownName
from truenorm.model.evaluate import Forward
from truenorm.model.statistics import using
from truenorm.model.watch import Watch, watch
from truenorm.rules import Rule


@dataclass(kw_only=True, eq=False, repr=False)
class RunCallback:
    """The base of the callbacks, which say what the settings mean and when in a run something is done."""

    diagnose: bool = True
    repair: bool = True
    watch: Sequence[Rule] | None = None
    train: str
    validation: str
    gap: float = 1.5
    data: Iterable[Any] | None = None
    forward: Forward | None = None
    score: Score | None = None
    limit: int | None = 10_000
    diagnosis: Diagnosis | None = field(default=None, init=False)
    repaired: Repair | None = field(default=None, init=False)
    watched: Watch | None = field(default=None, init=False)
    _modes: Mapping[nn.Module, bool] = field(default_factory=dict[nn.Module, bool], init=False)

    def __post_init__(self) -> None:
        if not self.gap >= 1:
            raise InvalidInput(f"gap is {self.gap:g}; expected the factor by which validation may be worse, 1 or more")

    def _begin(self, model: nn.Module) -> None:
        self._leave()
        self._modes = {}
        if self.watch is not None:
            with as_warning("the run is not watched"):
                self.watched = watch(model, self.watch).__enter__()

    def _leave(self) -> None:
        if self.watched is not None:
            self.watched.__exit__()

    def _note_modes(self, model: nn.Module) -> None:
        """Which layers are frozen by eval()."""
        self._modes = {module: module.training for module in model.modules()}

    def _diagnose(
        self, model: nn.Module, data: Any, optimizer: Optimizer | None, show: Callable[[Diagnosis], None] | None
    ) -> None:
        """Diagnose on validation batches, and show what is new; `show` is None where another process does."""
        with as_warning("validation falls behind, and was not diagnosed"), as_trained(model, self._modes):
            held_out = own_loader(data)
            score = self._score_for(held_out, model)
            diagnosis = diagnose(model, held_out, score=score, optimizer=optimizer, forward=self.forward)
            if show is not None and (self.diagnosis is None or diagnosis.cause != self.diagnosis.cause):
                show(diagnosis)
            self.diagnosis = diagnosis

    def _repair(self, model: nn.Module, training: Any, validation: Any) -> Repair:
        """True statistics of the model, and how they do; its own stay."""
        data = own_loader(training if self.data is None else self.data)
        return repair(
            model,
            data,
            held_out=own_loader(validation),
            score=self._score_for(data, model),
            forward=self.forward,
            limit=self.limit,
        )

    def _score_for(self, data: Iterable[Any], model: nn.Module) -> Score | None:
        return self.score

    def _warn_unless_logged(self, metrics: Collection[str]) -> None:
        with as_warning("training and validation were not compared"):
            for name in (self.train, self.validation):
                if name not in metrics:
                    raise UnknownName("metric", name, metrics)


def losses_diverged(train: float, validation: float, gap: float) -> bool:
    """Is the validation loss worse than the training loss by more than the factor, or not a number?

    Example:
        >>> [losses_diverged(1.0, validation, 1.5) for validation in (1.4, 1.6, float("nan"))]
        [False, True, True]
    """
    return math.isfinite(train) and not validation - train <= (gap - 1) * abs(train)


@contextmanager
def as_trained(model: nn.Module, modes: Mapping[nn.Module, bool]) -> Generator[None]:
    """In the modes of training, so that its frozen layers are frozen; statistics and modes are put back."""
    with using(model):
        for module, training in modes.items():
            module.training = training
        yield


@contextmanager
def as_warning(what: str) -> Generator[None]:
    """Turn exceptions into warnings: a callback must not end training."""
    try:
        yield
    except Exception as error:  # a diagnosis that fails must not end the training
        reason = str(error) if isinstance(error, TruenormError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"{what}: {reason}", stacklevel=1)


def own_loader(data: Any) -> Any:
    """The batches of a loader through another: iterators, workers and generators of the run are not touched."""
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset) or data.batch_sampler is None:
        return data
    loader: Any = data
    plan, images = loader.batch_sampler, loader.dataset
    if type(plan) is BatchSampler and isinstance(plan.sampler, SequentialSampler):
        # The first samples stand for all of them, and data often lie sorted by class.
        order = RandomSampler(images, generator=torch.Generator().manual_seed(0))
        plan = BatchSampler(order, plan.batch_size, plan.drop_last)
    else:
        plan = deepcopy(plan, {id(images): images})  # all of it but the data
    return DataLoader(
        images,
        batch_sampler=plan,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )
