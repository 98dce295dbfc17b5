"""Give the modules that call batch norms a generated forward in which batch norm → (addition) → activation is one call.

The owner, the module whose forward calls the batch norm, gets a class made at run time, a subclass of its own:
`self.relu(self.bn3(x) + r)` becomes `self.bn3(x, residual=r, activation="relu")`. The batch norm is still called as
a module, so hooks, watches and passes find it; the activation stays where it is and is not called. Calls that the
generated forward was not made for, and calls after a child was exchanged, run the forward of the owner's own class.
"""

import linecache
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

from torch import Tensor, nn

from truenorm.experimental.fusing.activation import activation_of
from truenorm.experimental.fusing.layers import OneCallBatchNormAct, empty
from truenorm.experimental.fusing.pattern import is_plain, rewritten
from truenorm.experimental.fusing.trace import Untraceable, trace
from truenorm.kernels import Activation
from truenorm.nn.act import BatchNormAct


def fuse_owners(model: nn.Module) -> dict[str, str]:
    """Give every owner of our batch norms a forward in which they are fused with what follows; in place.

    Returns:
        which batch norms or owners could not be fused, and why.

    Example:
        >>> from truenorm.nn import BatchNorm1d
        >>> net = nn.Sequential(nn.Linear(2, 3), BatchNorm1d(3), nn.ReLU())
        >>> fuse_owners(net), places(net)
        ({}, {'1': 'relu'})
    """
    unfused: dict[str, str] = {}
    for path, owner in _owners(model).items():
        unfused |= {f"{path}.{name}".strip("."): why for name, why in _fuse_one(owner).items()}
    return unfused


def restore_owner(owner: nn.Module) -> None:
    """Undo `fuse_owners` for one module; in place. Other modules stay as they are.

    Example:
        >>> from truenorm.nn import BatchNorm1d
        >>> net = nn.Sequential(BatchNorm1d(3), nn.ReLU())
        >>> _ = fuse_owners(net)
        >>> restore_owner(net)
        >>> type(net) is nn.Sequential, places(net)
        (True, {})
    """
    owner.__dict__.pop(_PLAN, None)
    origin = _origin(owner)
    if origin is not type(owner) and type(owner) is _fused(origin):  # a parametrization may have given it another class
        module: Any = owner  # the checker knows it as what it no longer is
        module.__class__ = origin


def places(model: nn.Module) -> dict[str, str]:
    """The batch norms that are fused, by name, and with what.

    Example:
        >>> from truenorm.nn import BatchNormAct1d
        >>> places(nn.Sequential(BatchNormAct1d(3, activation="silu")))
        {'0': 'silu'}
    """
    fusions: dict[str, str] = {}
    for path, module in model.named_modules():
        activation = None
        if isinstance(module, BatchNormAct):
            activation = module.activation
        elif isinstance(module, OneCallBatchNormAct):
            activation = module.in_one_call()
        if activation not in (None, "identity"):
            fusions[path] = activation
        plan = module.__dict__.get(_PLAN)
        if isinstance(plan, _Plan) and plan.is_current():
            fusions |= {f"{path}.{name}".strip("."): what for name, what in plan.places.items()}
    return fusions


class Fused(nn.Module):
    """An owner whose forward is generated. Copies and pickles name its own class, and are fused anew."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return empty, (_fused, _origin(self)), self.__getstate__()

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
        unfused = _fuse_one(self)
        after: _Plan | None = self.__dict__.get(_PLAN)
        lost = (before.places.keys() if before else set()) - (after.places.keys() if after else set())
        for name in sorted(lost):
            why = unfused.get("", unfused.get(name, "no addition or activation that is known follows it any more"))
            warnings.warn(f"{name} of a {type(self).__name__} is no longer fused: {why}", UserWarning, stacklevel=3)

    def _replicate_for_data_parallel(self) -> Any:
        replica = super()._replicate_for_data_parallel()
        replica.__dict__.pop(_PLAN, None)  # replicas are made anew, attribute by attribute, for each call
        return replica

    def extra_repr(self) -> str:
        plan = self.__dict__.get(_PLAN)
        fused = "fused: " + ", ".join(plan.places) if plan is not None and plan.is_current() else ""
        return ", ".join(filter(None, (super().extra_repr(), fused)))


_PLAN = "truenorm_plan"
"""Where an owner keeps its plan."""


@dataclass(frozen=True, eq=False)
class _Plan:
    """A generated forward, and what it was made for."""

    forward: Callable[..., Any]
    num_arguments: int
    reads: frozenset[str]
    places: Mapping[str, str]
    children: tuple[tuple[nn.Module, dict[str, nn.Module | None]], ...] = ()
    """The owner and the containers of the modules that it calls, each with its children."""
    replaced: tuple[tuple[nn.Module, Activation | None], ...] = ()
    """Modules that are no longer called, and the activation that each was."""
    batch_norms: tuple[nn.Module, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles keep the places alone: a generated function cannot be found by its name.
        return _Plan, (_no_forward, -1, frozenset[str](), self.places)

    def holds(self, arguments: tuple[Any, ...]) -> bool:
        """Does it hold for this call: a tensor for each required argument, none of them twice, and `is_current`?"""
        return (
            len(arguments) == self.num_arguments == len(set(map(id, arguments)))
            and all(isinstance(argument, Tensor) for argument in arguments)
            and self.is_current()
        )

    def is_current(self) -> bool:
        """Does the owner still have the modules that it was made for?"""
        return (
            all(owner._modules == children for owner, children in self.children)  # pyright: ignore[reportPrivateUsage]  # None, too
            and all(activation_of(module) == activation for module, activation in self.replaced)
            and all(map(is_plain, self.batch_norms))
        )


def _no_forward(*args: Any) -> None:
    raise AssertionError("a copied plan is made anew before it is used")


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


def _fuse_one(owner: nn.Module) -> dict[str, str]:
    """Fuse the batch norms that one forward calls.

    Returns:
        the reasons of those that could not be fused, by the name of the batch norm; "" stands for all of them.
    """
    owner.__dict__.pop(_PLAN, None)
    origin = _origin(owner)
    try:
        if not _is_copied_plainly(origin):
            raise Untraceable("its class defines how it is copied")
        graph, reads = trace(owner, origin)
    except Untraceable as error:
        return {"": str(error)}
    called = [str(node.target) for node in graph.find_nodes(op="call_module")]
    fusions, unfused = rewritten(graph, owner)
    if fusions:
        holders = {path: owner.get_submodule(path) for name in called for path in _above(name)}
        code = graph.python_code("self")
        replaced = [owner.get_submodule(name) for fusion in fusions.values() for name in fusion.modules]
        owner.__dict__[_PLAN] = _Plan(
            _function(code.src, tuple(code.globals.items()), f"{origin.__module__}.{origin.__qualname__}"),
            len(graph.find_nodes(op="placeholder")),
            reads,
            {name: fusion.what for name, fusion in fusions.items()},
            tuple((holder, dict(holder._modules)) for holder in holders.values()),  # pyright: ignore[reportPrivateUsage]  # None, too
            tuple((module, activation_of(module)) for module in replaced),
            tuple(map(owner.get_submodule, fusions)),
        )
        owner.__class__ = _fused(origin)
    return unfused


def _above(name: str) -> list[str]:
    """The paths of the modules that contain a module, from the owner, which is "", downwards.

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
    """The modules whose forwards call batch norms: for each, the nearest above it that has a forward."""
    modules = dict(model.named_modules())
    owners: dict[str, nn.Module] = {}
    for path in (path for path, layer in modules.items() if path and is_plain(layer)):
        owner = path.rpartition(".")[0]
        while owner and type(modules[owner]).forward is nn.Module.forward and "forward" not in vars(modules[owner]):
            owner = owner.rpartition(".")[0]
        owners[owner] = modules[owner]
    return owners


@cache
def _function(source: str, names: tuple[tuple[str, Any], ...], owner: str) -> Callable[..., Any]:
    """One function for all blocks with the same source, so that a compiler compiles it once."""
    place = f"<fused {owner} {zlib.crc32(source.encode()):x}>"
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)  # for tracebacks
    namespace = dict(names)
    exec(compile(source, place, "exec"), namespace)
    return namespace["forward"]
