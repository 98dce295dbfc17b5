"""What the two processes of `tests/processes.py` do: one diagnosis each, from random states that differ."""

import random

import numpy as np
import patients
import torch
from torch.utils.data import DataLoader, TensorDataset

import truenorm as tn

BROKEN = {"dropout": patients.dropout, "randomness": patients.random_in_training, "lag": patients.lag}
"""Their diagnosis draws random numbers, or looks for every cause."""


def loader(generator):
    """One that shuffles, by its own generator or by torch's."""
    images, labels = patients.joined(patients.held_out())
    return DataLoader(TensorDataset(images, labels), 32, shuffle=True, num_workers=0, generator=generator)


def chance(generator):
    """Every state that decides what is drawn next."""
    arrays = np.random.get_state()
    own = None if generator is None else generator.get_state().tolist()
    return random.getstate(), arrays[1].tolist(), arrays[2:], torch.get_rng_state().tolist(), own


def diagnosed(rank, kind, owned):
    """The record as it is written, and whether every random state is as it was."""
    net, _, known = BROKEN[kind]()
    generator = torch.Generator().manual_seed(5) if owned else None
    data = loader(generator)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(100 + rank)
    before = chance(generator)
    record = tn.diagnose(net, data, **known).record().dumps()
    return record, chance(generator) == before
