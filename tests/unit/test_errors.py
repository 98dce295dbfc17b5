import importlib
import inspect
import pickle
import shlex
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from truenorm import errors, install
from truenorm.errors import InvalidInput, MissingExtra, MissingFunction, TruenormError, UnknownName, extra

OURS = {
    name: found
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, BaseException) and found.__module__ == errors.__name__
}


def test_the_tree_and_its_exit_codes():
    tree = {name: (cls.__mro__[1].__name__, cls.exit_code) for name, cls in OURS.items()}
    assert tree == snapshot(
        {
            "TruenormError": ("Exception", 1),
            "InvalidInput": ("TruenormError", 2),
            "UnknownName": ("InvalidInput", 2),
            "MissingFunction": ("InvalidInput", 2),
            "MissingExtra": ("InvalidInput", 2),
            "DataUnavailable": ("TruenormError", 1),
            "NotMeasurable": ("TruenormError", 1),
            "NotFinite": ("NotMeasurable", 1),
            "Diverged": ("TruenormError", 1),
            "FileChanged": ("TruenormError", 1),
            "InvalidRecord": ("TruenormError", 1),
        }
    )


ARGUMENTS = {
    "UnknownName": ("arm", "dbmn", ["dmbn", "cumulative"]),
    "MissingFunction": ("no classes", "score"),
    "MissingExtra": ("sklearn.datasets", "lab"),
}


@pytest.mark.parametrize("name", OURS)
def test_every_error_crosses_a_process(name):
    """Raised in a worker of a loader, say: its sentence must not become a TypeError of pickle's."""
    error = OURS[name](*ARGUMENTS.get(name, ("a sentence",)))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is OURS[name] and str(again) == str(error) and vars(again) == vars(error)


@pytest.mark.parametrize("name", OURS)
def test_every_error_is_one_of_ours_and_is_drawn_in_the_module(name):
    assert issubclass(OURS[name], TruenormError)
    assert name in errors.__doc__


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("InvalidInput", ValueError),
        ("UnknownName", KeyError),
        ("MissingExtra", ImportError),
        ("DataUnavailable", OSError),
        ("NotMeasurable", RuntimeError),
        ("Diverged", ArithmeticError),
        ("InvalidRecord", ValueError),
    ],
)
def test_every_error_is_also_the_builtin_that_people_catch(name, builtin):
    assert issubclass(OURS[name], builtin)


def test_an_unknown_name_is_answered_with_the_nearest():
    error = UnknownName("arm", "dbmn", ["dmbn", "cumulative", "gn"])
    assert str(error) == snapshot("unknown arm 'dbmn'; did you mean 'dmbn'? Known: cumulative, dmbn, gn")
    assert (error.kind, error.name, error.known) == ("arm", "dbmn", ("cumulative", "dmbn", "gn"))


def test_two_near_names_and_none():
    assert str(UnknownName("arm", "static-0.11", ["static-0.1", "static-0.15", "gn"])) == snapshot(
        "unknown arm 'static-0.11'; did you mean 'static-0.1' or 'static-0.15'? Known: gn, static-0.1, static-0.15"
    )
    assert str(UnknownName("arm", "xyz", ["dmbn", "gn"])) == snapshot("unknown arm 'xyz'. Known: dmbn, gn")


def test_a_missing_function_names_the_argument_and_pickles():
    error = MissingFunction("the batches hold no classes", "score")
    assert str(error) == snapshot("the batches hold no classes; pass score=lambda output, batch: ...")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.why, again.argument) == (str(error), error.why, "score")


METADATA = [
    "torch>=2.11",
    "datasets>=4.4; extra == 'lab'",
    'scikit-learn>=1.7; extra == "lab"',
    "triton>=3.6; extra == 'gpu'",
    "triton==3.7.1; (sys_platform == 'linux') and extra == 'dev'",
]


@pytest.fixture
def installed(monkeypatch):
    """As pip notes it, whether from a clone, a wheel or an index."""
    monkeypatch.setattr(install, "requires", lambda name: METADATA)


def test_a_missing_module_is_said_with_its_install_line(installed):
    with pytest.raises(MissingExtra) as caught, extra("lab"):
        importlib.import_module("a_module_that_is_not_there")
    assert str(caught.value) == snapshot(
        "a_module_that_is_not_there is not installed; run: pip install 'datasets>=4.4' 'scikit-learn>=1.7'"
    )
    assert (caught.value.module, caught.value.extra) == ("a_module_that_is_not_there", "lab")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_module_put_out_of_use_counts_as_missing(monkeypatch, installed):
    monkeypatch.setitem(sys.modules, "colorsys", None)
    with pytest.raises(MissingExtra) as caught, extra("gpu"):
        importlib.import_module("colorsys")
    assert str(caught.value) == snapshot("colorsys is not installed; run: pip install 'triton>=3.6'")


@pytest.mark.parametrize(
    "noted", [[], None, PackageNotFoundError("truenorm")], ids=["no extra", "nothing", "not installed"]
)
def test_without_metadata_the_package_alone_is_named(monkeypatch, noted):
    def requires(name):
        if isinstance(noted, Exception):
            raise noted
        return noted

    monkeypatch.setattr(install, "requires", requires)
    assert str(MissingExtra("sklearn.metrics", "lab")) == snapshot(
        "scikit-learn is not installed; run: pip install scikit-learn"
    )


def test_the_line_names_what_the_extra_brings_here():
    """Of the metadata of this very installation; a marker beside the extra's would be lost."""
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name in extras.keys() - {"dev"}:
        assert not any(";" in requirement for requirement in extras[name])
        assert set(shlex.split(install.install_line(name, "none"))[2:]) == set(extras[name])


def test_other_errors_in_an_extra_pass():
    with pytest.raises(ZeroDivisionError), extra("lab"):
        print(1 / 0)


def test_a_message_is_the_whole_sentence():
    # KeyError alone would quote it.
    assert str(InvalidInput("take 'fewer'")) == "take 'fewer'"
    assert str(KeyError("take 'fewer'")) != "take 'fewer'"
    assert not str(UnknownName("arm", "a", ["b"])).startswith(('"', "'"))
