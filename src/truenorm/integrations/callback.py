"""What the callbacks share: reading a run's loaders beside it, in its modes, and failing without ending it."""

import math
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from truenorm.errors import TruenormError
from truenorm.model.statistics import using


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
