"""Find batch norm → (addition) → activation in the graph of a forward, say what prevents a fusion, and rewrite it."""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn import functional as F

from truenorm.experimental.fusing.activation import DEFAULTS, activation_of, is_hooked
from truenorm.experimental.fusing.layers import OneCallBatchNormAct
from truenorm.experimental.fusing.trace import IN_PLACE
from truenorm.kernels import Activation
from truenorm.model.scratch import Hook
from truenorm.nn.batchnorm import TrackedBatchNorm

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_PLACE = (operator.iadd, "add_")
_CHANGES = {getattr(operator, name) for name in IN_PLACE} | {operator.setitem, operator.delitem}

_ACTIVATIONS: dict[Any, tuple[Activation, tuple[str, ...]]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, "relu", "relu_"), ("relu", ("inplace",))),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), ("leaky_relu", ("negative_slope", "inplace"))),
    F.silu: ("silu", ("inplace",)),
    F.gelu: ("gelu", ("approximate",)),
    F.hardswish: ("hardswish", ("inplace",)),
}
"""Functions and methods: what they are, and their parameters after the input."""


def is_plain(layer: nn.Module) -> bool:
    """Does the layer compute batch norm and nothing else, by a forward that takes a residual and an activation?

    Example:
        >>> from truenorm.nn import BatchNorm1d, BatchNormAct1d
        >>> is_plain(BatchNorm1d(2)), is_plain(BatchNormAct1d(2)), is_plain(nn.BatchNorm1d(2))
        (True, False, False)
    """
    if "forward" in layer.__dict__:
        return False
    if isinstance(layer, OneCallBatchNormAct):
        return layer.in_one_call() == "identity"
    return type(layer).forward is TrackedBatchNorm.forward


def rewritten(graph: Graph, owner: nn.Module) -> "tuple[dict[str, Fusion], dict[str, str]]":
    """Make each batch norm and the operations that it can be fused with one call, in the graph.

    Args:
        graph: of the owner's forward, its children leaves; changed.
        owner: the module that the calls are of.

    Returns:
        the fusions, and the reasons of those batch norms that could not be fused, by name of the layer.

    Example:
        >>> from truenorm.experimental.fusing.trace import trace
        >>> from truenorm.nn import BatchNorm1d
        >>> net = nn.Sequential(BatchNorm1d(2), nn.ReLU())
        >>> graph, _ = trace(net, nn.Sequential)
        >>> rewritten(graph, net), [str(node.target) for node in graph.nodes]
        (({'0': Fusion(what='relu', modules=('1',))}, {}), ['input', '0', 'output'])
    """
    modules = dict(owner.named_modules(remove_duplicate=False))
    calls = [node for node in graph.find_nodes(op="call_module") if is_plain(modules[node.target])]
    fusions: dict[str, Fusion] = {}
    unfused: dict[str, str] = {}
    for call in calls:
        match = _Chain(call, calls, modules).fused()
        if isinstance(match, Fusion):
            fusions[str(call.target)] = match
        elif match is not None:
            unfused[str(call.target)] = match
    graph.lint()
    return fusions, unfused


@dataclass(frozen=True, slots=True)
class Fusion:
    """What a batch norm is fused with, in words, and the modules that are no longer called."""

    what: str
    modules: tuple[str, ...]


def summand(residual: Any, values: Tensor, in_place: bool) -> Tensor:
    """What is added to the output of batch norm of `values`, as a tensor: no residual is none, and none is an error.

    Example:
        >>> summand(2, torch.zeros(1), True)
        tensor(2.)
    """
    if residual is None:
        raise TypeError("unsupported operand type(s) for +: 'Tensor' and 'NoneType'")
    if not isinstance(residual, Tensor):
        return values.new_tensor(residual)
    # In place the sum is of the type of what is on the left.
    return residual.type_as(values) if in_place else residual


class _Chain:
    """One call of a batch norm in a graph, and the calls behind it that it can be fused with."""

    def __init__(self, call: Node, calls: list[Node], modules: Mapping[str, nn.Module]) -> None:
        self._calls = calls
        self._modules = modules
        self._chain = [call]
        self._addition: Node | None = None
        self._residual: Any = None
        self._activation: Activation = "identity"

    def fused(self) -> Fusion | str | None:
        """Fuse the batch norm with what it can be; or why it cannot; None: no addition or activation follows."""
        user = self._next()
        if user is not None and _is_addition(user):
            left, right = user.args
            if self._end is right and self._is_batch_norm(left):
                return None  # that one takes the addition
            if self._end is right and user.target in _IN_PLACE:
                return "it is added into another tensor in place"
            self._addition, self._residual = user, right if self._end is left else left
            self._chain.append(user)
            user = self._next()
        activation = None if user is None else self._activation_of(user)
        if user is not None and activation is not None:
            if not self._is_hooked(user):
                self._activation = activation
                self._chain.append(user)
            elif self._addition is None:
                return "its activation has hooks"  # behind an addition it goes on being called
        if self._addition is None and self._activation == "identity":
            users = self._end.users
            wanted = len(users) > 1 and any(_is_addition(user) or self._activation_of(user) for user in users)
            return "its output is used more than once" if wanted else None
        return self._obstacle() or self._rewritten()

    def _obstacle(self) -> str | None:
        call, layer = self._chain[0], self._module(self._chain[0])
        if sum(self._module(other) is layer for other in self._calls) > 1:
            return "it is called more than once"
        if len(call.args) != 1 or call.kwargs or not isinstance(call.args[0], Node):
            return "it is called with more than its input"
        if any(_is_seen(layer)):
            return "a hook sees its output"
        if layer.__dict__["_forward_pre_hooks_with_kwargs"]:
            return "a hook sees its named arguments"
        node = call.next
        while self._addition is not None and node is not self._addition:
            # It may change it in place, and the batch norm now comes after it.
            if node not in self._chain and call.args[0] in node.all_input_nodes:
                return "its input is used again before the addition"
            if node not in self._chain and self._is_in_place(node):
                return "something is changed in place before the addition"
            node = node.next
        return None

    def _rewritten(self) -> Fusion:
        """One call, where batch norm was; with an addition where the residual is known."""
        call, graph, addition = self._chain[0], self._chain[0].graph, self._addition
        named: dict[str, Any] = {}
        with graph.inserting_before(addition or call.next):
            if addition is not None:
                in_place = addition.target in _IN_PLACE
                named["residual"] = graph.call_function(summand, (self._residual, call.args[0], in_place))
            if self._activation != "identity":
                named["activation"] = self._activation
            fused = graph.create_node("call_module", call.target, call.args, named)
        self._end.replace_all_uses_with(fused)
        for node in reversed(self._chain):
            graph.erase_node(node)
        what = ["add"] * (addition is not None) + [self._activation] * (self._activation != "identity")
        called = [str(node.target) for node in self._chain[1:] if node.op == "call_module"]
        return Fusion(", ".join(what), tuple(called))

    def _is_in_place(self, node: Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(self._module(node), "inplace", False))
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        by_name = name.endswith("_") and not name.endswith("__")
        return node.target in _CHANGES or by_name or bool(node.kwargs.get("inplace")) or "out" in node.kwargs

    def _module(self, node: Node) -> nn.Module:
        return self._modules[str(node.target)]

    @property
    def _end(self) -> Node:
        return self._chain[-1]

    def _next(self) -> Node | None:
        """The only user of what there is so far, behind modules that do nothing."""
        while len(self._end.users) == 1:
            (user,) = self._end.users
            if not self._is_nothing(user):
                return user
            self._chain.append(user)
        return None

    def _is_nothing(self, node: Node) -> bool:
        known = node.op == "call_module" and activation_of(self._module(node)) == "identity"
        return known and not self._is_hooked(node) and len(node.args) == 1 and not node.kwargs

    def _is_hooked(self, node: Node) -> bool:
        return node.op == "call_module" and is_hooked(self._module(node))

    def _is_batch_norm(self, node: Any) -> bool:
        while isinstance(node, Node) and self._is_nothing(node):
            node = node.args[0]
        return node in self._calls

    def _activation_of(self, node: Node) -> Activation | None:
        if node.op == "call_module":
            plain = node.args == (self._end,) and not node.kwargs
            return activation_of(self._module(node)) if plain else None
        name, parameters = _ACTIVATIONS.get(node.target, (None, ()))
        if node.args[:1] != (self._end,):
            return None
        # Whether it works in place does not matter: it has no default, as None has none.
        given = {**dict(zip(parameters, node.args[1:], strict=False)), **node.kwargs, "inplace": None}
        return name if all(DEFAULTS.get(key) == value for key, value in given.items()) else None


def _is_addition(node: Node) -> bool:
    two = len(node.args) == 2 and all(isinstance(each, Node) for each in node.args) and node.args[0] is not node.args[1]
    return two and node.op != "call_module" and node.target in _ADDITIONS and node.kwargs in ({}, {"alpha": 1})


def _is_seen(layer: nn.Module) -> Iterator[bool]:
    """Hooks that get the output or its gradient; not those that a watch left on a copy."""
    for kind in ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks"):
        yield from (not isinstance(hook, Hook) for hook in layer.__dict__[kind].values())
