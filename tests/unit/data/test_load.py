import pickle
import sys

import pytest

from truenorm.data.load import factory
from truenorm.errors import InvalidInput


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "layers_of_this_test.py").write_text("width = 3\n")
    file = tmp_path / "nets.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from layers_of_this_test import width\n"
        "@dataclass\nclass Net:\n    depth: int = width\n"
        "def resnet():\n    return 'resnet'\n"
        "size = 3\n"
    )
    yield file
    sys.modules.pop("layers_of_this_test", None)


def test_a_file_gives_its_function_and_can_import_its_neighbours(nets):
    before, modules = list(sys.path), set(sys.modules)
    assert factory(f"{nets}:resnet")() == "resnet"
    assert sys.path == before
    new = set(sys.modules) - modules - {"layers_of_this_test"}
    assert [name.startswith("_truenorm_nets_") for name in new] == [True]


def test_what_a_file_defines_can_be_pickled(nets):
    net = factory(f"{nets}:Net")()
    assert pickle.loads(pickle.dumps(net)) == net


def test_a_file_is_run_afresh(nets):
    factory(f"{nets}:resnet")
    nets.write_text("def resnet():\n    return 'changed since'\n")
    assert factory(f"{nets}:resnet")() == "changed since"


def test_a_module_gives_its_function():
    import torch

    assert factory("torch.nn:Linear") is torch.nn.Linear


@pytest.mark.parametrize("spec", ["nets.py", "", ":", "nets.py:", ":resnet", "torch.nn"])
def test_a_spec_without_both_halves_is_refused(spec):
    with pytest.raises(InvalidInput, match="expected file.py:name or package.module:name"):
        factory(spec)


def test_a_missing_file_is_named_with_the_nearest(nets):
    with pytest.raises(InvalidInput, match=r"there is no file .*net\.py; .* did you mean .*nets\.py\?"):
        factory(f"{nets.with_name('net.py')}:resnet")
    with pytest.raises(InvalidInput, match="there is no folder"):
        factory(f"{nets.parent / 'elsewhere' / 'net.py'}:resnet")


def test_a_missing_name_is_named_with_the_nearest(nets):
    with pytest.raises(InvalidInput, match="has no 'reznet'; did you mean 'resnet'?"):
        factory(f"{nets}:reznet")
    with pytest.raises(InvalidInput, match="has no 'qqq'; it has Net, dataclass, resnet"):
        factory(f"{nets}:qqq")


def test_a_name_that_cannot_be_called_is_refused(nets):
    with pytest.raises(InvalidInput, match="size of .* is a int"):
        factory(f"{nets}:size")


@pytest.mark.parametrize(
    ("text", "said", "cause"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero", ZeroDivisionError),
        ("def (", "SyntaxError", SyntaxError),
        ("import no_such_module", "No module named 'no_such_module'", ModuleNotFoundError),
        ("raise SystemExit(2)", "SystemExit: 2", SystemExit),
    ],
)
def test_a_file_that_raises_is_named_and_leaves_nothing(tmp_path, text, said, cause):
    file = tmp_path / "broken.py"
    file.write_text(text)
    before, modules = list(sys.path), set(sys.modules)
    with pytest.raises(InvalidInput, match="broken.py raised") as caught:
        factory(f"{file}:net")
    assert said in str(caught.value)
    assert isinstance(caught.value.__cause__, cause)
    assert (sys.path, set(sys.modules)) == (before, modules)


def test_a_module_that_is_not_there_or_raises(tmp_path, monkeypatch):
    package = tmp_path / "package_of_this_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("import no_such_module")
    (package / "fine.py").write_text("")
    (tmp_path / "broken_of_this_test").mkdir()
    (tmp_path / "broken_of_this_test" / "__init__.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    for place in (
        "no_such_module",
        "no_such_package.module",
        "package_of_this_test.nothing",
        "package_of_this_test.fine.x",
    ):
        with pytest.raises(InvalidInput, match=f"there is no module '{place}'"):
            factory(f"{place}:net")
    with pytest.raises(InvalidInput, match="raised ModuleNotFoundError: No module named 'no_such_module'"):
        factory("package_of_this_test.broken:net")
    with pytest.raises(InvalidInput, match="above broken_of_this_test.nets raised ZeroDivisionError"):
        factory("broken_of_this_test.nets:net")
    sys.modules.pop("package_of_this_test", None)
    sys.modules.pop("package_of_this_test.fine", None)
