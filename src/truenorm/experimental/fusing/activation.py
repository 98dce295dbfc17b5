"""Which of torch's modules are activations that batch norm can apply itself."""

from typing import Any

from torch import nn

from truenorm.kernels import Activation

_MODULES: dict[type[nn.Module], tuple[Activation, dict[str, Any]]] = {
    nn.Identity: ("identity", {}),
    nn.ReLU: ("relu", {}),
    nn.LeakyReLU: ("leaky_relu", {"negative_slope": 0.01}),
    nn.SiLU: ("silu", {}),
    nn.GELU: ("gelu", {"approximate": "none"}),
    nn.Hardswish: ("hardswish", {}),
}
"""The name of each module here, and the only parameters with which it has that name."""


def activation_of(module: nn.Module) -> Activation | None:
    """Which `Activation` a module computes, `identity` among them; None: another function.

    Example:
        >>> activation_of(nn.ReLU(inplace=True)), activation_of(nn.GELU("tanh"))
        ('relu', None)
    """
    name, parameters = _MODULES.get(type(module), (None, {}))
    if name is None or "forward" in module.__dict__:
        return None
    return name if all(module.__dict__[key] == value for key, value in parameters.items()) else None


def is_hooked(module: nn.Module) -> bool:
    """Does the module have a hook that reads or changes its input, its output or their gradients?

    Example:
        >>> is_hooked(nn.ReLU())
        False
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(module.__dict__[kind] for kind in hooks)
