import re
from collections.abc import Mapping

import pytest
import torch

from truenorm.errors import InvalidInput, InvalidRecord
from truenorm.stats import Moments, Provenance, Statistics, merge, merge_statistics, moments


def some(**provenance):
    return Statistics(
        {"b.bn": Moments(torch.randn(3), torch.rand(3), 12, 0.5), "a": Moments(torch.randn(2), torch.rand(2))},
        momenta={"b.bn": 0.1},
        provenance=Provenance(**provenance),
    )


def test_a_mapping_in_the_order_given():
    stats = some()
    assert isinstance(stats, Mapping)
    assert list(stats) == ["b.bn", "a"]
    assert len(stats) == 2
    assert "a" in stats and "c" not in stats
    with pytest.raises(KeyError):
        stats["c"]


def test_equality_is_of_layers_moments_and_counts():
    stats = some()
    assert stats == Statistics(dict(stats))
    assert stats == Statistics({"a": stats["a"], "b.bn": stats["b.bn"]}, provenance=Provenance(flow="joint"))
    assert stats != Statistics({"a": stats["a"]})
    assert stats != Statistics({**stats, "a": Moments(stats["a"].mean, stats["a"].var, 4)})
    nudged = torch.nextafter(stats["a"].mean, torch.tensor(torch.inf))
    assert stats != Statistics({**stats, "a": Moments(nudged, stats["a"].var)})
    assert stats != dict(stats)


def test_it_cannot_be_changed_or_hashed():
    layers = {"a": Moments(torch.zeros(1), torch.ones(1))}
    stats = Statistics(layers, momenta={"a": 0.1}, provenance=Provenance(flow="joint"))
    layers["b"] = layers["a"]
    stats.momenta["a"] = 0.9
    stats.about["flow"] = "eval"
    assert list(stats) == ["a"] and stats.momenta == {"a": 0.1} and stats.provenance == Provenance(flow="joint")
    with pytest.raises(TypeError, match="item assignment"):
        stats["a"] = layers["a"]
    with pytest.raises(TypeError, match="unhashable"):
        hash(stats)
    with pytest.raises(AttributeError):
        stats.anything = 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_saved_and_loaded_is_equal(tmp_path, dtype):
    stats = Statistics(
        {"b.bn": Moments(torch.randn(3).to(dtype), torch.rand(3).to(dtype), 12, 0.123456789), "a": some()["a"]},
        momenta={"b.bn": 0.0016, "a": 0.1},
        provenance=Provenance(flow="joint", samples=12, frozen=("x", "y, z")),
    )
    path = tmp_path / "deep" / "stats.safetensors"
    stats.save(path)
    found = Statistics.load(path)
    assert found == stats
    assert list(found) == list(stats)
    assert found["b.bn"].mean.dtype == dtype
    assert found["b.bn"].design_effect == 0.123456789 and found["a"].design_effect is None
    assert found.momenta == stats.momenta and found.provenance == stats.provenance
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_no_layers_save_and_load(tmp_path):
    Statistics({}).save(tmp_path / "none")
    assert len(Statistics.load(tmp_path / "none")) == 0


def test_the_layer_of_a_model_that_is_one(tmp_path):
    """Its name is empty."""
    stats = Statistics({"": Moments(torch.zeros(1), torch.ones(1))})
    stats.save(tmp_path / "one")
    assert Statistics.load(tmp_path / "one") == stats


def test_slices_of_one_tensor_can_be_saved(tmp_path):
    values = torch.randn(2, 6)
    stats = Statistics({"a": Moments(values[0, ::2], values[1, ::2]), "b": Moments(values[0, :3], values[1, :3])})
    stats.save(tmp_path / "views")
    assert Statistics.load(tmp_path / "views") == stats


def test_a_damaged_file_is_refused_with_its_path(tmp_path):
    path = tmp_path / "stats.safetensors"
    some().save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"no statistics", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(InvalidRecord, match=f"{re.escape(str(path))} does not hold statistics of batch norm"):
            Statistics.load(path)


def test_a_file_of_other_tensors_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(InvalidRecord, match="does not hold statistics"):
        Statistics.load(tmp_path / "other")
    # Layers are promised that are not there; a mean and a variance of different lengths; a bad count.
    for tensors, metadata in (
        ({"a.mean": torch.ones(2)}, {"layers": '["a"]'}),
        ({"a.mean": torch.ones(2), "a.var": torch.ones(3)}, {"layers": '["a"]'}),
        ({"a.mean": torch.ones(2), "a.var": torch.ones(2)}, {"layers": "a"}),
        ({"a.mean": torch.ones(2), "a.var": torch.ones(2)}, {"layers": '["a"]', "count.a": "many"}),
        ({"a.mean": torch.ones(2), "a.var": torch.ones(2)}, {"layers": '["a"]', "momentum.a": "quick"}),
    ):
        save_file(tensors, tmp_path / "other", metadata=metadata)
        with pytest.raises(InvalidRecord, match="does not hold statistics"):
            Statistics.load(tmp_path / "other")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidRecord, match="nothing here"):
        Statistics.load(tmp_path / "nothing here")


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write .*choose another folder"):
        some().save(tmp_path / "file" / "stats")


def test_saving_over_a_file_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "stats"
    stats = some()
    stats.save(path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InvalidInput, match="No space left on device"):
        some().save(path)
    assert Statistics.load(path) == stats
    assert list(tmp_path.iterdir()) == [path]


def test_it_shows_itself_and_escapes_names():
    name = "<script>alert(1)</script>[bold]&"
    stats = Statistics(
        {name: Moments(torch.zeros(2), torch.ones(2), 1234)}, provenance=Provenance(skipped=("<b>x</b>",))
    )
    html = stats._repr_html_()
    assert "<script>" not in html and "<b>x" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;[bold]&amp;" in html
    assert "1,234" in html

    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115  # closed below
    console.print(stats)
    console.file.close()
    text = console.export_text()
    assert name in text and "<b>x</b>" in text
    assert repr(stats) == "Statistics(1 layers, not reached: <b>x</b>)"


def test_to_dict_is_plain():
    stats = Statistics({"a": Moments(torch.tensor([1.0]), torch.tensor([2.0]), 3)})
    assert stats.to_dict() == {"a": {"mean": [1.0], "var": [2.0], "count": 3}}


def test_parts_merge_layer_by_layer():
    x, y = torch.randn(6, 2), torch.randn(9, 2)
    first = Statistics({"a": moments(x), "b": moments(y)}, provenance=Provenance(flow="joint"))
    second = Statistics({"c": moments(x), "a": moments(y)}, provenance=Provenance(flow="joint"))
    together = merge_statistics([first, second])
    assert list(together) == ["a", "b", "c"]
    assert together["a"] == merge([moments(x), moments(y)])
    assert together["b"] == moments(y) and together["c"] == moments(x)
    assert together.provenance == Provenance(flow="joint")
    with pytest.raises(InvalidInput, match="nothing to merge"):
        merge_statistics([])
