import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import truenorm

SOURCE = ast.parse(Path(truenorm.__file__).read_text())
PLACES = ("truenorm", "truenorm.experimental", "truenorm.nn", "truenorm.rules", "truenorm.stats")

NO_EXAMPLE = {
    "truenorm.Watch": "made by watch(), whose example shows it",
    "truenorm.rules.Batches": "what a rule is given: a plain container",
    "truenorm.rules.Reading": "what a rule gives: a plain container",
    "truenorm.rules.Rule": "a protocol",
    "truenorm.rules.State": "what a rule remembers: a plain container",
    "truenorm.stats.LayerShift": "a row of ShiftReport, whose example shows it: a plain container",
}

THREE_IN_ORDER = {"truenorm.stats.mixture": 3}  # what was stored: weight, means, variances


def place(name):
    """The module, or the thing that stands for one: `truenorm.rules` is no module of that name."""
    return truenorm.rules if name == "truenorm.rules" else importlib.import_module(name)


def public():
    return {f"{where}.{name}": getattr(place(where), name) for where in PLACES for name in place(where).__all__}


def assigned(name):
    """The literal that the source of truenorm/__init__.py assigns to a name."""
    for node in SOURCE.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def type_checking_imports():
    """Name → the module that the type checker takes it from."""
    (block,) = (node for node in SOURCE.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


def fresh(code, *arguments):
    """What a new process prints."""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize("name", PLACES)
def test_what_is_public_is_listed_sorted(name):
    def key(listed):  # as ruff sorts: constants, classes, functions
        return (not listed.isupper(), not listed[0].isupper(), listed)

    listed = place(name).__all__
    assert listed == sorted(listed, key=key)
    assert len(set(listed)) == len(listed)
    assert not [n for n in listed if n.startswith("_")]


@pytest.mark.parametrize("name", PLACES[1:])
def test_a_room_lists_everything_it_imports(name):
    reachable = {n for n, found in vars(place(name)).items() if not n.startswith("_") and not inspect.ismodule(found)}
    assert set(place(name).__all__) == reachable


def test_the_source_of_the_list_is_literal():
    assert assigned("__all__") == truenorm.__all__


def test_the_list_is_what_is_reachable():
    home, modules = assigned("_HOME"), assigned("_MODULES")
    assert set(truenorm.__all__) == {*home, *modules}
    assert not home.keys() & modules.keys()
    for name in truenorm.__all__:
        assert getattr(truenorm, name) is not None
    assert {name for name in dir(truenorm) if name in truenorm.__all__} == set(truenorm.__all__)


def test_type_checkers_see_what_is_loaded():
    home, modules = assigned("_HOME"), assigned("_MODULES")
    assert type_checking_imports() == home | {name: path.rpartition(".")[0] for name, path in modules.items()}
    for name, path in home.items():
        assert getattr(truenorm, name) is getattr(importlib.import_module(path), name)
    for name, path in modules.items():
        assert getattr(truenorm, name) is importlib.import_module(path)


def test_a_star_import_gives_the_list():
    names = fresh("from truenorm import *; print(*sorted(n for n in dir() if not n.startswith('__')))").split()
    assert names == sorted(truenorm.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'truenorm' has no attribute 'batchnorm'"):
        truenorm.batchnorm  # noqa: B018  # the access is the test


HEAVY = "torch numpy scipy sklearn datasets safetensors rich.console cyclopts"
SAY = "print(*(m for m in %r.split() if m in sys.modules))"


def test_importing_truenorm_imports_nothing_heavy():
    assert fresh(f"import sys, truenorm; dir(truenorm); {SAY % HEAVY}").split() == []


LOOKING = """
import sys, torch, truenorm as tn
from torch import nn
tn.diagnose
assert "torch._dynamo" not in sys.modules, "named"
net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
batches = [(torch.randn(16, 4) + 3, torch.randint(0, 3, (16,))) for _ in range(8)]
with tn.watch(net) as watched:
    for x, _ in batches:
        net(x).sum().backward()
for flow in ("joint", "sequential", "eval"):
    tn.measure(net, batches, flow=flow)
tn.diagnose(net, batches)
tn.repair(net, batches)
with tn.using(net, watched["adaptive"]):
    tn.freeze(net), tn.unfreeze(net), tn.convert(net)
print([name for name in sys.modules if name.startswith("torch._dynamo")])
"""


def test_looking_does_not_import_the_compiler():
    """It takes seconds, and crashes beside TensorFlow."""
    assert fresh(LOOKING) == "[]\n"


def test_this_comparison_sees_the_compiler():
    """Planted: an optimizer of torch's imports it."""
    with_optimizer = LOOKING.replace("batches = [", "torch.optim.SGD(net.parameters(), 0.1)\nbatches = [")
    assert fresh(with_optimizer) != "[]\n"


def test_this_comparison_sees_torch():
    """Planted: the first use of a name does import it."""
    assert "torch" in fresh(f"import sys, truenorm; truenorm.Moments; {SAY % HEAVY}").split()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["study", "--help"], ["claims", "--help"], ["report", "--help"], []]
)
def test_help_does_not_import_torch(arguments):
    code = (
        "import atexit, sys; from truenorm.cli import main\n"
        f"atexit.register(lambda: print('LOADED', *(m for m in {HEAVY!r}.split() if m in sys.modules)))\n"
        "sys.argv = ['truenorm', *sys.argv[1:]]; main()"
    )
    told = fresh(code, *arguments)
    assert len(told.splitlines()) > 1
    loaded = set(told.splitlines()[-1].removeprefix("LOADED").split())
    assert not loaded & {"torch", "numpy", "scipy", "sklearn", "datasets", "safetensors"}


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert truenorm.__version__ == version("truenorm")


@pytest.mark.parametrize("name", [name for name, found in public().items() if callable(found)])
def test_what_is_public_is_documented_with_an_example(name):
    docstring = inspect.getdoc(public()[name])
    assert docstring
    # A dataclass without a docstring gets its signature.
    assert not docstring.startswith(f"{name.rpartition('.')[2]}(")
    assert (">>>" in docstring) != (name in NO_EXAMPLE), NO_EXAMPLE.get(name, "no example")


def test_the_exceptions_are_public():
    assert set(NO_EXAMPLE) <= set(public())


@pytest.mark.parametrize("name", [name for name, found in public().items() if inspect.isfunction(found)])
def test_all_but_the_first_two_arguments_are_keywords(name):
    kinds = [parameter.kind for parameter in inspect.signature(public()[name]).parameters.values()]
    free = THREE_IN_ORDER.get(name, 2)
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for kind in kinds[free:])
