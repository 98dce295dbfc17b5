"""The forward of one module as a graph whose nodes are calls of its children, if it is the same whenever it is called.

What a graph cannot hold is refused, not lost: branches on values, what depends on the mode, state, random
numbers, contexts such as `no_grad`. Tracing runs on a stand-in, so that the module itself cannot change.
"""

import copy
import inspect
import operator
import pickle
import random
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy, Tracer

from truenorm.model.measure import random_states_kept


class Untraceable(Exception):
    """Why there is no such graph, in a few words."""


@dataclass(frozen=True, slots=True)
class Traced:
    """The graph of a forward.

    Args:
        graph: its placeholders are the arguments that must be given; the others have their defaults.
        num_arguments: how many must be given, after `self`.
        reads: the names of everything the forward looked up on the module, its mode aside: what it may depend on.
    """

    graph: Graph
    num_arguments: int
    reads: frozenset[str]


def trace(module: nn.Module, origin: type[nn.Module]) -> Traced:
    """The graph of `origin.forward` on a module, every child a leaf.

    Raises:
        Untraceable: there is none that holds in training and evaluation, with gradients and without, under
            autocast and not.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
        >>> [node.target for node in trace(net, nn.Sequential).graph.nodes]
        ['input', '0', '1', 'output']
    """
    if "forward" in module.__dict__:
        raise Untraceable("its forward was replaced on the instance")
    with random_states_kept(module):
        with _in_training():
            traced = _traced(module, origin, training=True)
        with _in_inference():
            again = _traced(module, origin, training=False)
    if _code(traced.graph) != _code(again.graph):
        raise Untraceable("its forward depends on training, gradients or autocast")
    return Traced(traced.graph, traced.num_arguments, traced.reads | again.reads)


def _traced(module: nn.Module, origin: type[nn.Module], *, training: bool) -> Traced:
    reads: set[str] = set()
    stand_in = _stand_in(module, origin, reads)
    stand_in.training = training
    tracer = _Tracer()
    state, draws = _state(stand_in), _draws()
    try:
        graph = tracer.trace(stand_in)
    except Untraceable:
        raise
    except Exception as error:  # whatever a forward does with values that are not there
        words = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")
        raise Untraceable(f"its forward cannot be traced: {words[:100]}") from error
    if _state(stand_in) != state:
        raise Untraceable("its forward keeps state")
    if _draws() != draws:
        raise Untraceable("its forward draws random numbers")
    return Traced(graph, tracer.num_arguments, frozenset(reads))


class _Value(Proxy):
    """A value that has no type yet."""

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # what isinstance asks
        if _asking().startswith("torch.fx"):
            return type(self)
        raise Untraceable("its forward asks what type a value is")


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    def call(self: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

    return call


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul"):
    setattr(_Value, f"__{_name}__", _in_place(_name))  # a Proxy by itself would take `a += b` for `a = a + b`


class _Tracer(Tracer):
    proxy_buffer_attributes = True  # else a buffer that is changed in place would be changed now
    num_arguments = 0

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: Node) -> Proxy:
        return _Value(node, self)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        parameters = list(inspect.signature(root_fn).parameters.values())[1:]
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        given = [one.name for one in parameters if one.kind in positional and one.default is one.empty]
        if not given:
            raise Untraceable("its forward has no argument that must be given")
        self.num_arguments = len(given)
        self._contexts = _contexts()
        return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in given)]

    def create_node(self, *args: Any, **named: Any) -> Node:
        if _contexts() != self._contexts:  # a graph would run everything in the context of its call
            raise Untraceable("its forward switches gradients or autocast")
        return super().create_node(*args, **named)


def _asking() -> str:
    """The name of the module whose code asks for a class, behind classes that answer `isinstance` themselves."""
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # inspect would read the source files
    while frame.f_back is not None and frame.f_code.co_name == "__instancecheck__":
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


def _stand_in(module: nn.Module, origin: type[nn.Module], reads: set[str]) -> nn.Module:
    """The same children and tensors in a module of its own, which notes what is looked up on it."""

    def note(self: Any, name: str) -> Any:
        if name != "training" and not name.startswith("__"):
            reads.add(name)
        return origin.__getattribute__(self, name)

    make: Any = type(origin)
    cls = make(origin.__name__, (origin,), {"__getattribute__": note, "__module__": origin.__module__})
    stand_in = cls.__new__(cls)
    object.__getattribute__(stand_in, "__dict__").update({key: _copied(one) for key, one in module.__dict__.items()})
    return stand_in


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return copy.copy(value) if isinstance(value, dict | list | set) else value


def _state(module: nn.Module) -> dict[str, Any]:
    """What differs once an attribute was set or a container or a tensor was changed."""
    return {key: (id(value), _content(value)) for key, value in vars(module).items()}


def _content(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value._version
    if isinstance(value, dict):
        return [(id(key), id(one)) for key, one in value.items()]
    return list(map(id, value)) if isinstance(value, list | set) else None


def _draws() -> Any:
    """What differs once a random number was drawn."""
    return random.getstate(), pickle.dumps(np.random.get_state()), pickle.dumps(torch.get_rng_state().numpy())


def _code(graph: Graph) -> Any:
    code = graph.python_code("self")
    return code.src, code.globals


def _contexts() -> Any:
    autocast = [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in _DEVICES]
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast


_DEVICES = ("cpu", "cuda")


@contextmanager
def _in_training() -> Generator[None]:
    with torch.inference_mode(False), torch.enable_grad(), _autocast(False):
        yield


@contextmanager
def _in_inference() -> Generator[None]:
    with torch.inference_mode(False), torch.no_grad(), _autocast(True):
        yield


@contextmanager
def _autocast(enabled: bool) -> Generator[None]:
    """The flags alone: `torch.autocast` would ask for the devices."""
    before = [torch.is_autocast_enabled(device) for device in _DEVICES]
    try:
        for device in _DEVICES:
            torch.set_autocast_enabled(device, enabled)
        yield
    finally:
        for device, was in zip(_DEVICES, before, strict=True):
            torch.set_autocast_enabled(device, was)
