"""What every room's tests share: the oracle on the path, one seed, and torchvision where it can be had."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

# Triton's kernels are interpreted where there is no GPU; it reads this when they are defined.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

sys.path.insert(0, str(Path(__file__).parent))


torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def torchvision():
    """torchvision without its compiled operators: the wheel is made for another build of torch."""
    try:
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        library = None  # a build whose operators are there
    module = pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=ImportError)
    yield module
    del library  # it lives as long as the session: the operators go with it


@pytest.fixture(scope="session")
def timm(torchvision):
    """timm, which imports torchvision."""
    return pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
