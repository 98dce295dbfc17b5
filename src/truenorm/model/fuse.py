"""Find batch norm → (addition) → activation in the forwards of a network, and make each one call.

The module that owns such layers gets a class made at run time, a subclass of its own, whose forward is generated:
`self.relu(self.bn3(x) + r)` becomes `self.bn3(x, residual=r, activation="relu")`. The batch norm is still called as
a module, so hooks, watches and passes find it; the activation stays where it is, unused. Calls that the
generated forward was not made for, and those after something was exchanged, go to the class's own.
"""

import linecache
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph

from truenorm.kernels import Activation
from truenorm.model.pattern import is_plain, rewritten
from truenorm.model.trace import Untraceable, trace
from truenorm.nn.act import BatchNormAct, TrackedBatchNormAct, activation_of


def fuse(model: nn.Module) -> dict[str, str]:
    """Give every owner of our batch norms a forward in which they take along what follows them; in place.

    Returns:
        what was left as it is although something follows that could be taken along, and why.

    Example:
        >>> from truenorm.nn import BatchNorm1d
        >>> net = nn.Sequential(nn.Linear(2, 3), BatchNorm1d(3), nn.ReLU())
        >>> fuse(net), places(net)
        ({}, {'1': 'relu'})
    """
    left: dict[str, str] = {}
    for path, owner in _owners(model).items():
        left |= {f"{path}.{name}".strip("."): why for name, why in _fuse_one(owner).items()}
    return left


def unfuse(owner: nn.Module) -> None:
    """Give a module that `fuse` changed its own class back.

    Example:
        >>> from truenorm.nn import BatchNorm1d
        >>> net = nn.Sequential(BatchNorm1d(3), nn.ReLU())
        >>> _ = fuse(net)
        >>> unfuse(net)
        >>> type(net) is nn.Sequential, places(net)
        (True, {})
    """
    origin = _origin(owner)
    owner.__dict__.pop(_PLAN, None)
    if type(owner) is _fused(origin):  # a parametrization may have put a class of its own on it
        module: Any = owner  # the checker knows it as what it no longer is
        module.__class__ = origin


def places(model: nn.Module) -> dict[str, str]:
    """The batch norms that take along what follows them, by name, and what that is.

    Example:
        >>> from truenorm.nn import BatchNormAct1d
        >>> places(nn.Sequential(BatchNormAct1d(3, activation="silu")))
        {'0': 'silu'}
    """
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        own = None
        if isinstance(module, BatchNormAct):
            own = module.activation
        elif isinstance(module, TrackedBatchNormAct):
            own = module.in_one_call()
        found |= {path: own} if own not in (None, "identity") else {}
        plan = module.__dict__.get(_PLAN)
        if isinstance(plan, _Plan):
            found |= {f"{path}.{name}".strip("."): what for name, what in plan.places.items()}
    return found


class Fused(nn.Module):
    """An owner whose forward is generated. Copies and pickles name its own class, and are fused anew."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _empty, (_origin(self),), self.__getstate__()

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._fuse_anew()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        plan = self.__dict__.get(_PLAN)
        if plan is not None and name in plan.reads:
            self._fuse_anew()

    def _fuse_anew(self) -> None:
        before: _Plan | None = self.__dict__.get(_PLAN)
        left = _fuse_one(self)
        after: _Plan | None = self.__dict__.get(_PLAN)
        lost = (before.places.keys() if before else set()) - (after.places.keys() if after else set())
        for name in sorted(lost):
            why = left.get("", left.get(name, "nothing follows any more that it could take along"))
            warnings.warn(f"{name} of a {type(self).__name__} is no longer fused: {why}", UserWarning, stacklevel=3)

    def _replicate_for_data_parallel(self) -> Any:
        replica = super()._replicate_for_data_parallel()
        replica.__dict__.pop(_PLAN, None)  # replicas are made anew, attribute by attribute, for each call
        return replica

    def extra_repr(self) -> str:
        plan = self.__dict__.get(_PLAN)
        fused = "fused: " + ", ".join(plan.places) if plan is not None else ""
        return ", ".join(filter(None, (super().extra_repr(), fused)))


_PLAN = "truenorm_plan"
"""Where an owner keeps its plan."""


@dataclass(frozen=True, eq=False)
class _Plan:
    """A generated forward, and for what it was made."""

    forward: Callable[..., Any]
    num_arguments: int
    reads: frozenset[str]
    places: Mapping[str, str]
    children: tuple[tuple[nn.Module, dict[str, nn.Module | None]], ...] = ()
    """The owner, and what holds the modules that are called: whose children are these?"""
    taken: tuple[tuple[nn.Module, Activation | None], ...] = ()
    """Modules that are not called any more, and what they were."""
    batch_norms: tuple[nn.Module, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Of a plan only what was found goes along: functions that were generated have no address.
        return _Plan, (_no_forward, -1, frozenset[str](), self.places)

    def holds(self, arguments: tuple[Any, ...]) -> bool:
        """Was it made for this call: tensors, none of them twice, for the arguments that must be given; and for what
        the owner now consists of?"""
        return (
            len(arguments) == self.num_arguments == len(set(map(id, arguments)))
            and all(isinstance(one, Tensor) for one in arguments)
            and all(one._modules == children for one, children in self.children)  # pyright: ignore[reportPrivateUsage]  # None, too
            and all(activation_of(one) == activation for one, activation in self.taken)
            and all(map(is_plain, self.batch_norms))
        )


def _no_forward(*args: Any) -> None:
    raise AssertionError("a plan that was copied is made anew before it is used")


@cache
def _fused(origin: type[nn.Module]) -> type[Fused]:
    @wraps(origin.forward)
    def forward(self: Any, *args: Any, **named: Any) -> Any:
        plan = self.__dict__.get(_PLAN)
        if plan is not None and not named and plan.holds(args):
            return plan.forward(self, *args)
        return origin.forward(self, *args, **named)

    namespace = {"forward": forward, "truenorm_origin": origin}
    namespace |= {key: getattr(origin, key) for key in ("__module__", "__qualname__", "__doc__")}
    make: Any = type(origin)
    return make(origin.__name__, (Fused, origin), namespace)


def _origin(module: nn.Module) -> type[nn.Module]:
    return getattr(type(module), "truenorm_origin", type(module))


def _empty(origin: type[nn.Module]) -> Any:
    cls = _fused(origin)
    return cls.__new__(cls)


def _fuse_one(owner: nn.Module) -> dict[str, str]:
    """Fuse what one forward calls; what was left, by the name of the batch norm, or "" for all of them."""
    owner.__dict__.pop(_PLAN, None)
    origin = _origin(owner)
    try:
        if not _is_copied_plainly(origin):
            raise Untraceable("it has a way of its own of being copied")
        traced = trace(owner, origin)
    except Untraceable as error:
        return {"": str(error)}
    found, left = rewritten(traced.graph, owner)
    if found:
        modules = dict(owner.named_modules(remove_duplicate=False))
        called = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
        gone = [name for taken in found.values() for name in taken.modules]
        holders = {path: modules[path] for name in (*called, *gone) for path in _above(name)}
        owner.__dict__[_PLAN] = _Plan(
            _function(traced.graph, origin),
            traced.num_arguments,
            traced.reads,
            {name: taken.what for name, taken in found.items()},
            tuple((one, dict(one._modules)) for one in holders.values()),  # pyright: ignore[reportPrivateUsage]  # None, too
            tuple((modules[name], activation_of(modules[name])) for name in gone),
            tuple(modules[name] for name in found),
        )
        owner.__class__ = _fused(origin)
    return left


def _above(name: str) -> list[str]:
    """The paths of what holds a module, down from the owner, which is "".

    Example:
        >>> _above("blocks.0.bn")
        ['', 'blocks', 'blocks.0']
    """
    parts = name.split(".")
    return [".".join(parts[:number]) for number in range(len(parts))]


def _is_copied_plainly(origin: type[nn.Module]) -> bool:
    own = any(hasattr(origin, name) for name in ("__deepcopy__", "__copy__"))
    return not own and origin.__reduce_ex__ is object.__reduce_ex__ and origin.__reduce__ is object.__reduce__


def _owners(model: nn.Module) -> dict[str, nn.Module]:
    """The modules in whose forwards batch norms are called: the nearest above them that have one."""
    modules = dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    for path in (path for path, layer in modules.items() if path and is_plain(layer)):
        owner = path.rpartition(".")[0]
        while owner and type(modules[owner]).forward is nn.Module.forward and "forward" not in vars(modules[owner]):
            owner = owner.rpartition(".")[0]
        found[owner] = modules[owner]
    return found


def _function(graph: Graph, origin: type[nn.Module]) -> Callable[..., Any]:
    code = graph.python_code("self")
    place = f"<fused {origin.__module__}.{origin.__qualname__} {zlib.crc32(code.src.encode()):x}>"
    return _compiled(code.src, tuple(code.globals.items()), place)


@cache
def _compiled(source: str, names: tuple[tuple[str, Any], ...], place: str) -> Callable[..., Any]:
    """One function for all blocks that are alike: compilers meet it once."""
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)  # for tracebacks
    namespace = dict(names)
    exec(compile(source, place, "exec"), namespace)
    return namespace["forward"]
