"""Make a fused copy of a network, and undo it."""

import copy
import warnings
from typing import Any

from torch import Tensor, nn

from truenorm.errors import InvalidInput
from truenorm.experimental.fusing.comparison import first_difference
from truenorm.experimental.fusing.layers import prepare_layer, restore_layer
from truenorm.experimental.fusing.owners import fuse_owners, places, restore_owner
from truenorm.model.convert import names_by_reason
from truenorm.model.layers import batch_norms, refuse_programs, unwrap

_NOTHING_FOLLOWS = "no addition or activation that is known follows one"


def fuse(model: nn.Module, example: Tensor | tuple[Any, ...] | None = None) -> nn.Module:
    """A copy in which batch norm → addition → activation (the addition or the activation may be missing) is one call.

    The copy computes what the model computes, in training and evaluation; with kernels that can, in one sweep over
    memory. The model stays as it is, and so does an optimizer made for it. The batch norms of the copy are ours, with
    torch's statistics where they were torch's. The state dict keeps its keys; copies and pickles are fused too. See
    `docs/layers.md`.

    A warning names what could not be fused, and why.

    Args:
        model: the network; of `torch.compile` and data parallelism the network inside is copied.
        example: an input, or a tuple of the arguments that the model is called with. Copies of the model and of the
            fused copy are run on it, in evaluation and in training, and compared.

    Returns:
        the copy.

    Raises:
        InvalidInput: there is no batch norm; a lazy one has no shape yet; the model is a program (TorchScript,
            `torch.export`); nothing can be fused; or the copy computes something else on the example.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        >>> fused, x = fuse(net, torch.randn(16, 4)), torch.randn(16, 4)
        >>> torch.equal(fused(x), net(x)), list(fused.state_dict()) == list(net.state_dict())
        (True, True)
    """
    refuse_programs(model)
    model = unwrap(model)
    batch_norms(model, tracking=False)  # raises where there is none, or a lazy one, which cannot be copied
    fused = copy.deepcopy(model)
    reasons = {name: prepare_layer(layer) for name, layer in batch_norms(fused, tracking=False).items()}
    unfused = {name: reason for name, reason in reasons.items() if reason is not None} | fuse_owners(fused)
    if not places(fused):
        why = f": {names_by_reason(unfused, fused)}" if unfused else f", for {_NOTHING_FOLLOWS}"
        raise InvalidInput(f"no batch norm of {type(model).__name__} can be fused with what follows it{why}")
    if example is not None:
        difference = first_difference(model, fused, example if isinstance(example, tuple) else (example,))
        if difference is not None:
            raise InvalidInput(
                f"the fused copy of {type(model).__name__} computes something else than the model: {difference}; "
                "nothing was returned, so keep the model as it is"
            )
    if unfused:
        warnings.warn(f"left as they are: {names_by_reason(unfused, fused)}", UserWarning, stacklevel=2)
    return fused


def unfuse(model: nn.Module) -> nn.Module:
    """Undo `fuse`, in place: every module gets the class and the forward back that it had before.

    Batch norms that were torch's are torch's again, those that were ours stay ours. Parameters, buffers, hooks and
    modes stay as they are. A model that is not fused stays as it is.

    Args:
        model: a fused copy.

    Returns:
        the model itself.

    Example:
        >>> net = unfuse(fuse(nn.Sequential(nn.BatchNorm1d(8), nn.ReLU())))
        >>> type(net) is nn.Sequential, type(net[0]) is nn.BatchNorm1d
        (True, True)
    """
    for module in list(model.modules()):
        restore_owner(module)
        restore_layer(module)
    return model
