"""The forward of one module as a graph whose nodes are calls of its children, if it is the same whenever it is called.

What a graph cannot hold is refused where it can be seen: branches on values, what depends on the mode, state, random
numbers, `no_grad` and autocast, anything of a child but a call of it. Globals, class attributes, other contexts and
what is printed cannot be. Tracing runs on stand-ins, so that the module itself cannot change.
"""

import copy
import inspect
import operator
import pickle
import random
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partialmethod
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy, Tracer

from truenorm.model.evaluate import random_states_kept


class Untraceable(Exception):
    """Why there is no such graph, in a few words."""


def trace(module: nn.Module, origin: type[nn.Module]) -> tuple[Graph, frozenset[str]]:
    """The graph of `origin.forward` on a module, every child a leaf.

    Returns:
        the graph, whose placeholders are the arguments that must be given (the others have their defaults); and the
        names of everything the forward looked up on the module, its mode aside: what it may depend on.

    Raises:
        Untraceable: there is none that holds in training and evaluation, with gradients and without, under
            autocast and not, in all combinations.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
        >>> graph, reads = trace(net, nn.Sequential)
        >>> [node.target for node in graph.nodes]
        ['input', '0', '1', 'output']
    """
    if "forward" in module.__dict__:
        raise Untraceable("its forward was replaced on the instance")
    graphs: list[Graph] = []
    reads: set[str] = set()
    with random_states_kept(module):
        for training, gradients, autocast in product((True, False), repeat=3):
            with torch.inference_mode(False), torch.set_grad_enabled(gradients), _autocast(autocast):
                graphs.append(_traced(module, origin, reads, training=training))
    first, *others = [(code.src, code.globals) for code in (graph.python_code("self") for graph in graphs)]
    if any(other != first for other in others):
        raise Untraceable("its forward depends on training, gradients or autocast")
    return graphs[0], frozenset(reads)


def _traced(module: nn.Module, origin: type[nn.Module], reads: set[str], *, training: bool) -> Graph:
    try:
        stand_in = _stand_in(module, origin, reads)
        stand_in.training = training
        state, draws = _state(stand_in), _draws()
        graph = _Tracer().trace(stand_in)
    except Untraceable:
        raise
    except Exception as error:  # whatever a forward does with values that are not there
        words = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")
        raise Untraceable(f"its forward cannot be traced: {words[:100]}") from error
    if _state(stand_in) != state:
        raise Untraceable("its forward keeps state")
    if _draws() != draws:
        raise Untraceable("its forward draws random numbers")
    return graph


class _Value(Proxy):
    """A value that has no type yet."""

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # what isinstance asks
        if _caller().startswith("torch.fx"):
            return type(self)
        raise Untraceable("its forward asks what type a value is")


def _in_place(value: Proxy, operation: Callable[..., Any], other: Any) -> Proxy:
    return value.tracer.create_proxy("call_function", operation, (value, other), {})


IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul")
"""Python's operators that change what is on their left, as `operator` names them."""

for _name in IN_PLACE:
    # A Proxy by itself would take `a += b` for `a = a + b`.
    setattr(_Value, f"__{_name}__", partialmethod(_in_place, getattr(operator, _name)))


_CONTAINERS = (tuple, list, dict)


class _Tracer(Tracer):
    proxy_buffer_attributes = True  # else a buffer that is changed in place would be changed now

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: Node) -> Proxy:
        return _Value(node, self)

    def create_arg(self, a: Any) -> Any:
        kind = type(a)  # isinstance would ask a value what it is
        if issubclass(kind, _CONTAINERS) and kind not in (*_CONTAINERS, torch.Size) and not hasattr(kind, "_fields"):
            raise Untraceable(f"its forward makes a {kind.__name__}, which a graph cannot")
        return super().create_arg(a)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        parameters = list(inspect.signature(root_fn).parameters.values())[1:]
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        given = [each.name for each in parameters if each.kind in positional and each.default is each.empty]
        if not given:
            raise Untraceable("its forward has no argument that must be given")
        self._contexts = _contexts()
        return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in given)]

    def create_node(self, *args: Any, **named: Any) -> Node:
        if _contexts() != self._contexts:  # a graph would run everything in the context of its call
            raise Untraceable("its forward switches gradients or autocast")
        return super().create_node(*args, **named)


def _caller() -> str:
    """The name of the module whose code looks something up, behind classes that answer `isinstance` themselves."""
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # inspect would read the source files
    while frame.f_back is not None and frame.f_code.co_name == "__instancecheck__":
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


def _stand_in(module: nn.Module, origin: type[nn.Module], reads: set[str]) -> nn.Module:
    """The same tensors and values in a module of its own, which notes what is looked up on it; children likewise."""

    def look(self: Any, name: str) -> Any:
        if name == "training" or name.startswith("__"):
            return origin.__getattribute__(self, name)
        reads.add(name)
        value = origin.__getattribute__(self, name)
        own = name in module.__dict__ and not name.startswith("_")
        if (name in _LISTS and not _caller().startswith("torch.")) or (own and not _is_plain(value)):
            raise Untraceable(f"its forward reads {name!r}, which may change unseen")
        return value

    return _lookalike(module, origin, look, {})


def _child(module: nn.Module, twins: dict[nn.Module, nn.Module]) -> nn.Module:
    """A child can be called, and gives parameters and children: what else it has may change unseen."""
    if module in twins:
        return twins[module]
    origin = type(module)
    is_container = origin.__module__ == "torch.nn.modules.container"

    def look(self: Any, name: str) -> Any:
        own = name in module.__dict__ or not hasattr(nn.Module, name)
        if own and not name.startswith("_") and not is_container and not _caller().startswith("torch."):
            raise Untraceable(f"its forward reads {name!r} of a {origin.__name__} below it, which may change unseen")
        return origin.__getattribute__(self, name)

    return _lookalike(module, origin, look, twins)


def _lookalike(
    module: nn.Module, origin: type[nn.Module], look: Callable[[Any, str], Any], twins: dict[nn.Module, nn.Module]
) -> nn.Module:
    if any("__init_subclass__" in vars(base) for base in origin.__mro__[:-1]):
        raise Untraceable("subclasses of its class have effects")
    namespace = {"__getattribute__": look, "__setattr__": nn.Module.__setattr__, "__module__": origin.__module__}
    make: Any = type(origin)
    cls = make(origin.__name__, (origin,), namespace)
    stand_in = twins[module] = cls.__new__(cls)
    attributes = {key: _copied(value) for key, value in module.__dict__.items()}
    for key, child in attributes["_modules"].items():  # None among them, unlike named_children
        attributes["_modules"][key] = None if child is None else _child(child, twins)
    object.__getattribute__(stand_in, "__dict__").update(attributes)
    return stand_in


_LISTS = ("parameters", "named_parameters", "buffers", "named_buffers", "state_dict")


def _is_plain(value: Any) -> bool:
    """A value that only setting the attribute changes, or a container of such."""
    if isinstance(value, tuple | list | dict):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    simple = bool | int | float | str | torch.dtype | torch.device | Tensor | nn.Module
    return value is None or callable(value) or isinstance(value, simple)


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
        return [(id(key), id(content)) for key, content in value.items()]
    return list(map(id, value)) if isinstance(value, list | set) else None


def _draws() -> Any:
    """What differs once a random number was drawn."""
    return random.getstate(), pickle.dumps(np.random.get_state()), pickle.dumps(torch.get_rng_state().numpy())


def _contexts() -> Any:
    autocast = [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in _DEVICES]
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast


_DEVICES = ("cpu", "cuda")


@contextmanager
def _autocast(enabled: bool) -> Generator[None]:
    """The flags alone: `torch.autocast` would ask for the devices."""
    with ExitStack() as stack:
        for device in _DEVICES:
            stack.callback(torch.set_autocast_enabled, device, torch.is_autocast_enabled(device))
            torch.set_autocast_enabled(device, enabled)
        yield
