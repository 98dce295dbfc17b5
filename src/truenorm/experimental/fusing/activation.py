"""Which of torch's modules are activations that batch norm can apply itself."""

from torch import nn

from truenorm.kernels import Activation

_MODULES: dict[type[nn.Module], Activation] = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Hardswish: "hardswish",
}

DEFAULTS = {"negative_slope": 0.01, "approximate": "none"}
"""The only parameters with which what has such a parameter is the activation of its name."""


def activation_of(module: nn.Module) -> Activation | None:
    """Which `Activation` a module computes, `identity` among them; None: another function.

    Example:
        >>> activation_of(nn.ReLU(inplace=True)), activation_of(nn.GELU("tanh"))
        ('relu', None)
    """
    plain = all(module.__dict__.get(key, value) == value for key, value in DEFAULTS.items())
    return _MODULES.get(type(module)) if plain and "forward" not in module.__dict__ else None


def is_hooked(module: nn.Module) -> bool:
    """Does the module have a hook that reads or changes its input, its output or their gradients?

    Example:
        >>> is_hooked(nn.ReLU())
        False
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(module.__dict__[kind] for kind in hooks)
