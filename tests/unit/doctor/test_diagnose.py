"""What is said of sound and of broken networks, of any data; and that nothing is left of it in the model."""

import copy
import math
import pickle
from collections import OrderedDict
from html.parser import HTMLParser

import numpy as np
import oracle
import patients
import pytest
import torch
from inline_snapshot import snapshot
from patients import PATIENTS
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import truenorm as tn
from truenorm.data.sample import take_sample
from truenorm.doctor import words
from truenorm.doctor.outcome import Improvement, Looked, Outcome
from truenorm.doctor.remedy import DiagnoseAgain, Nothing, RepairStatistics, Step
from truenorm.errors import InvalidInput, NotMeasurable, TruenormError
from truenorm.show import plain

ESTIMATES = ["joint", "within", "sequential"]


@pytest.fixture
def net():
    return patients.sound()


@pytest.fixture
def data():
    return patients.held_out()


def sentences(found):
    """What stands at the end, a word each: what to do, and when."""
    return [word for step in found.steps for word in (step.when, *words.advice(step.remedy).split())]


def word(found, what):
    return dict(found.lines())[what]


# Sound networks


def test_a_sound_network(net, data):
    found = tn.diagnose(net, data)
    assert found.healthy and found.best is None and found.cause is None and found.findings == ()
    assert found.outcome == Outcome(kind="sound", off=0, layers=2)
    assert found.steps == (Step(remedy=Nothing()),)
    assert [layer.layer for layer in found.layers] == ["bn1", "bn2"]
    assert all(layer.off < 2 * layer.floor for layer in found.layers)
    assert found.looked == Looked(measured=512, scored=512, batch_size=32, limit=2000, kind="classes")
    assert [part.what for part in found.ruled_out] == ["statistics"]


def test_dropout_behind_batch_norm_is_ruled_out(net, data):
    net.add_module("head", nn.Sequential(nn.Dropout(0.9), net.head))
    found = tn.diagnose(net, data)
    assert found.healthy and found.cause is None
    ((_, change), _) = next(part.changes for part in found.ruled_out if part.what == "dropout")
    # Nine of ten inputs of the last layer are gone.
    x, y = patients.joined(data)
    with torch.no_grad():
        inner = net.eval()[:-1](x)
        dropped = [float((net.head.train()(inner).argmax(1) == y).float().mean()) for _ in range(10)]
    assert change == pytest.approx(np.mean(dropped) - found.scores["as it is"]["accuracy"], abs=0.06)
    assert change < -0.1


@pytest.mark.parametrize("kind", ["labels", "few", "little"])
def test_no_alarm_where_what_is_gained_is_noise(net, data, kind):
    """Layers are off; whether that is a loss is not to be told, or there is none."""
    net.bn1.running_mean += (0.3 if kind == "little" else 1.0) * net.bn1.running_var.sqrt()
    if kind == "labels":
        data = [(x, torch.randint(0, 3, y.shape)) for x, y in data]
    elif kind == "few":
        data = data[:1]
    else:
        nn.init.zeros_(net.head.weight)
    found = tn.diagnose(net, data)
    assert found.healthy and found.best is None
    if found.findings:
        assert word(found, "harmless") == found.findings[0].sentence
    assert found.outcome.kind in ("harmless", "sound")
    assert found.steps == (Step(remedy=Nothing()),)


@pytest.mark.parametrize(("gain", "kind"), [(0.1, "sound"), (0.4, "sound"), (0.6, "repairable")])
def test_where_no_layer_is_off_only_a_large_gain_is_an_alarm(net, data, gain, kind):
    """Statistics that are right up to noise score a little better or worse than others."""
    layer = next(module for module in net.modules() if isinstance(module, nn.BatchNorm1d))
    stored = layer.running_mean.clone()

    def score(output, batch):  # of a standard deviation of 1
        return torch.arange(len(output)) % 2 * 2.0 + gain * float(not torch.equal(layer.running_mean, stored))

    found = tn.diagnose(net, data, score=score)
    assert (found.outcome.kind, found.healthy, found.outcome.off) == (kind, kind == "sound", 0)
    assert (found.best is None) == found.healthy
    assert found.steps == (Step(remedy=Nothing() if found.healthy else RepairStatistics(needs_score=True)),)


def test_overfitting_and_wrong_labels_are_not_batch_norm():
    torch.manual_seed(0)
    few = [(x, torch.randint(0, 3, y.shape)) for x, y in patients.blobs(2)]
    net = patients.settled(patients.train(patients.mlp(), few, 200), few)
    found = tn.diagnose(net, patients.blobs(32, seed=2))
    assert found.healthy and found.best is None


def test_a_gain_that_noise_may_hide_is_not_called_harmless():
    """Eight images: half are scored."""
    net, data, _ = patients.never()
    found = tn.diagnose(net, [(x[:8], y[:8]) for x, y in data[:1]])
    assert found.outcome.kind == "undecided" and found.ruled_out == ()
    assert not found.healthy and found.cause == "never updated"  # a defect, whatever a repair gives
    (step,) = found.steps
    assert step.remedy == DiagnoseAgain(samples=found.outcome.undecided.samples) and step.remedy.samples >= 100


# Broken ones


def test_own_and_inherited_error(net, data):
    """The first layer alone is off: what arrives at the second is wrong, what it stores is right."""
    net.bn1.running_mean += 0.7 * net.bn1.running_var.sqrt()
    found = {layer.layer: layer for layer in tn.diagnose(net, data).layers}
    for name, values in patients.reached(net, data).items():
        layer = net.get_submodule(name)
        mean, var, _ = oracle.moments(values)
        expected = oracle.shift(layer.running_mean.numpy(), layer.running_var.numpy(), mean, var)
        assert found[name].off == pytest.approx(expected, rel=0.1)
        assert found[name].kl == found[name].off ** 2 / 2
        assert found[name].floor == pytest.approx(math.sqrt(2 / 512), rel=0.3)
    assert found["bn1"].own == pytest.approx(found["bn1"].off) and found["bn1"].inherited < 1e-6
    assert found["bn2"].own < 0.05 < 0.3 < found["bn2"].inherited
    assert found["bn1"].harm > 10 * found["bn2"].harm


def test_the_most_harmful_layer_comes_first(net, data):
    for broken, other in (("bn1", "bn2"), ("bn2", "bn1")):
        net = patients.sound()
        net.get_submodule(broken).running_mean += 2 * net.get_submodule(broken).running_var.sqrt()
        first, last = tn.diagnose(net, data).layers
        assert (first.layer, last.layer) == (broken, other)
        assert first.own > 10 * last.own


def test_what_mending_one_layer_does_to_the_output(net, data):
    net.bn2.running_mean += 0.5 * net.bn2.running_var.sqrt()
    (effect,) = (layer.effect for layer in tn.diagnose(net, data).layers if layer.layer == "bn2")
    x, _ = patients.joined(data)
    with torch.no_grad():
        broken, sound = net.eval()(x), patients.sound()(x)
    expected = (broken - sound).square().mean().sqrt() / broken.std()
    assert effect == pytest.approx(float(expected), rel=0.15)


def test_the_gains_are_those_that_assigning_gives(net, data):
    net, data, _ = patients.never()
    found = tn.diagnose(net, data)
    assert not found.healthy and found.best == "joint"
    assert list(found.gains) == ESTIMATES and set(found.scores) == {"as it is", "batch", *ESTIMATES}
    assert found.outcome.kind == "repairable" and found.outcome.improved[0] == Improvement(
        metric="accuracy", before=found.scores["as it is"]["accuracy"], after=found.scores["joint"]["accuracy"]
    )
    assert found.steps == (Step(remedy=RepairStatistics()),)  # the other layer's statistics were saved
    for name in ESTIMATES:
        for metric, gain in found.gains[name].items():
            assert gain.mean == pytest.approx(found.scores[name][metric] - found.scores["as it is"][metric], abs=1e-9)
            assert gain.n == 512
    tn.assign(net, tn.measure(net, data))
    x, y = patients.joined(data)
    with torch.no_grad():
        right = float((net.eval()(x).argmax(1) == y).float().mean())
    assert found.scores["joint"]["accuracy"] == pytest.approx(right, abs=0.03)


def test_the_score_by_batches_is_that_of_train(net, data):
    """Each batch's own statistics; dropout stays off."""
    found = tn.diagnose(net, data).scores["batch"]["accuracy"]
    with torch.no_grad():
        right = [float((net.train()(x).argmax(1) == y).float().mean()) for x, y in data]
    assert found == pytest.approx(np.mean(right), abs=0.03)


def test_two_faults_are_both_said():
    net = patients.sound()
    net.bn1.running_var[0] = -1
    net.bn2.running_mean[0] = torch.nan
    found = tn.diagnose(net, patients.held_out())
    assert {finding.cause for finding in found.findings} == {"not finite", "negative variance"}
    assert word(found, "cause") and word(found, "also")


def test_layers_that_no_batch_reaches_are_named(net, data):
    net.add_module("unused", nn.BatchNorm1d(2))
    found = tn.diagnose(net, data, forward=lambda model, batch: model[:-1](batch[0]))
    assert found.looked.unreached == ("unused",)
    assert {layer.layer for layer in found.layers} == {"bn1", "bn2"}


def test_a_layer_called_twice_is_named():
    net, data, _ = patients.called_several_times()
    assert tn.diagnose(net, data).looked.repeated == ("norm",)


def test_twice_the_same_is_said():
    net, data, _ = patients.dropout()
    first = tn.diagnose(net, data)
    torch.manual_seed(5)
    second = tn.diagnose(net, data)
    assert first.to_dict() == second.to_dict()
    assert first.layers == second.layers and first.scores == second.scores


def test_a_frozen_layer_is_seen_and_left_out_of_what_is_to_be_mended(net, data):
    """It is wrong and is to stay so; what is promised is what a repair gives, which leaves it alone."""
    net.bn1.running_mean += 1
    tn.freeze(net, "bn1")
    found = tn.diagnose(net.train(), data)
    assert [layer.layer for layer in found.layers] == ["bn1", "bn2"]
    assert found.looked.frozen == ("bn1",)
    done = tn.repair(net, data)
    assert done.statistics["bn1"] == done.previous["bn1"]


def test_a_frozen_layer_is_not_called_unreached(net, data):
    tn.freeze(net, "bn1")
    assert tn.diagnose(net, data).looked.unreached == ()


def test_a_network_that_is_frozen_in_every_layer(net, data):
    net.bn1.running_mean += 1
    tn.freeze(net)
    found = tn.diagnose(net, data)
    assert found.layers[0].off > 0.5 and found.outcome.kind == "frozen" and not found.healthy
    with pytest.raises(NotMeasurable, match="every batch-norm layer is frozen"):
        tn.repair(net, data)
    assert tn.diagnose(net).healthy


# Without data


def test_without_data(net):
    found = tn.diagnose(net)
    assert found.healthy and found.layers == () and found.gains == {} and found.scores == {} and found.looked is None
    assert found.outcome == Outcome(kind="no defect", data=False, layers=2)
    assert found.steps == (Step(remedy=DiagnoseAgain()),)
    assert found.tables() == ()


@pytest.mark.parametrize("cause", ["not finite", "negative variance", "track_running_stats"])
def test_what_is_certain_alarms_without_data(cause):
    net, _, how = PATIENTS[cause]()
    found = tn.diagnose(net, **how)
    assert not found.healthy and found.cause == cause
    assert found.outcome.kind == "defect" and not found.outcome.data


@pytest.mark.parametrize("cause", ["half precision", "bias before batch norm", "weight decay", "synchronised alone"])
def test_habits_do_not_alarm(cause):
    net, data, how = PATIENTS[cause]()
    found = tn.diagnose(net, data, **how)
    assert found.healthy and found.cause is None
    assert word(found, "note") == found.findings[0].sentence


def test_without_batch_norm():
    for given in ((), (patients.held_out(),)):
        found = tn.diagnose(nn.Linear(4, 4), *given)
        assert found.healthy and found.outcome.kind == "no batch norm" and found.findings == ()


def test_what_may_be_batch_norm_of_another_make_is_not_acquitted():
    norm = nn.Linear(8, 8)
    norm.register_buffer("running_mean_0", torch.zeros(8))
    with pytest.raises(InvalidInput, match="layer 1 may be one of another make, by the names of its buffers"):
        tn.diagnose(nn.Sequential(nn.Linear(4, 8), norm))
    net = patients.sound()
    net.bn1.register_module("other", norm)
    assert tn.diagnose(net, patients.held_out()).outcome.unknown == ("bn1.other",)


# Data


def test_no_labels_and_no_score(data):
    net, _, _ = patients.never()
    found = tn.diagnose(net, [x for x, _ in data])
    assert found.gains == {} and found.scores == {} and found.best is None and found.ruled_out == ()
    assert found.cause == "never updated" and not found.healthy
    assert found.outcome.kind == "not scored" and found.outcome.off
    assert found.looked == Looked(measured=512, scored=0, batch_size=32, limit=2000)
    assert found.steps[0] == Step(remedy=RepairStatistics(needs_score=True))


def test_where_nothing_is_scored_another_score_is_asked_for(net, data):
    assert tn.diagnose(net, [x for x, _ in data]).steps == (Step(remedy=DiagnoseAgain(needs_score=True)),)


def test_what_was_not_scored_is_not_called_harmless(data):
    net, _, _ = patients.initial()
    assert "harmless" not in dict(tn.diagnose(net, [x for x, _ in data]).lines())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: {"image": x, "label": y},
        lambda x, y: OrderedDict(labels=y, pixel_values=x),
        lambda x, y: (x, y, ["a file name"] * len(x)),
    ],
    ids=["tuple", "list", "dict", "transformers", "with what is no tensor"],
)
def test_batches_as_people_have_them(wrap):
    net, data, _ = patients.initial()
    found = tn.diagnose(net, [wrap(x, y) for x, y in data])
    assert found.cause == "initial values" and not found.healthy
    assert found.scores["as it is"]["accuracy"] == pytest.approx(
        tn.diagnose(net, data).scores["as it is"]["accuracy"], abs=0.04
    )


def test_batches_that_only_forward_understands():
    """No key is known: the forward says where the images are, the score where the classes."""
    net, data, _ = patients.initial()
    batches = [{"audio": x, "genre": y} for x, y in data]
    how = {
        "forward": lambda model, batch: model(batch["audio"]),
        "score": lambda output, batch: (output.argmax(1) == batch["genre"]).float(),
    }
    found = tn.diagnose(net, batches, **how)
    assert found.cause == "initial values"
    assert found.looked == Looked(measured=512, scored=512, scores=512, batch_size=32, limit=2000)
    assert found.recommendation.startswith("truenorm.repair(model, train_loader, forward=..., score=...)")
    done = tn.repair(net, batches, **how)
    assert (done.measured, done.batch_size) == (768, 32)


def test_loaders(net, data):
    x, y = patients.joined(data)
    expected = tn.diagnose(net, data)
    shuffled = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(x, y, strict=True))

    for loader in (shuffled, DataLoader(Stream(), batch_size=32), iter(data), (batch for batch in data)):
        found = tn.diagnose(net, loader)
        assert found.healthy and found.looked == expected.looked


def test_it_reads_once_and_no_more_than_the_limit(net):
    read = []

    def endless():
        for batch in patients.blobs(1) * 10_000:
            read.append(len(batch[0]))
            yield batch

    found = tn.diagnose(net, endless(), limit=100)
    assert sum(read) == 128
    assert found.looked == Looked(measured=64, scored=64, batch_size=32, limit=100, kind="classes")


@pytest.mark.parametrize("examine", [tn.diagnose, tn.repair])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "gave no batches"),
        (iter(()), "gave no batches"),
        (DataLoader(TensorDataset(torch.zeros(3, 4)), batch_size=4, drop_last=True), "gave no batches"),
        ("digits", "data is a str, not batches"),
        (torch.zeros(8, 4), "data is a Tensor, not batches; give an iterable of batches: [batch]"),
        ({"image": torch.zeros(8, 4)}, "data is a dict with the keys 'image', not batches"),
        (3, "data is a int; expected an iterable of batches"),
        (TensorDataset(torch.zeros(8, 4)), "data is a data set of single samples; wrap it: DataLoader"),
        (["a", "b"], "a batch is a str, and no tensor of images was found"),
        ([["a", "b"]], "a batch is a list whose first element is a str"),
        ([None], "a batch is a NoneType"),
        ([{"audio": torch.zeros(8, 4)}], "no tensor of images was found in it; pass forward=lambda model, batch: ..."),
        ([torch.full((8, 4), torch.nan)], "batch 0 of the data holds images that are not finite"),
        ([torch.zeros(8, 4), torch.full((8, 4), torch.inf)], "batch 1 of the data holds images that are not finite"),
        ([(torch.zeros(1, 4), torch.zeros(1).long())], "got a batch of one value per channel"),
        ([(torch.zeros(2, 4), torch.zeros(2).long())], "got a batch of one value per channel"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_data_that_cannot_be_used(net, examine, given, said):
    before, things = patients.bits(net), patients.everything_else(net)
    with pytest.raises((InvalidInput, NotMeasurable)) as error:
        examine(net, given)
    assert said in str(error.value) and "\n" not in str(error.value)
    patients.assert_same_bits(net.state_dict(), before)
    assert patients.everything_else(net) == things


def test_samples_that_are_no_batches(net):
    with pytest.raises(NotMeasurable, match=r"layer 'bn1' of 8 channels was given shape \(8,\)"):
        tn.diagnose(net, [(torch.zeros(4), 0), (torch.zeros(4), 1)])


@pytest.mark.parametrize("examine", [tn.diagnose, tn.repair])
def test_batches_of_no_sample(net, examine):
    with pytest.raises(TruenormError):
        examine(net, [(torch.zeros(0, 4), torch.zeros(0).long())])


def test_one_batch(net, data):
    found = tn.diagnose(net, data[:1])
    assert found.looked == Looked(measured=16, scored=16, batch_size=16, limit=2000, kind="classes")
    assert found.healthy


def test_one_image_is_enough_to_measure_where_it_has_positions():
    """Too little to say anything by: no gain has an interval, and that is no alarm."""
    net = patients.sound("cnn")
    found = tn.diagnose(net, [(patients.digits(1)[0][0][:1], torch.tensor([3]))])
    assert found.healthy and all(part.half_width is None for gain in found.gains.values() for part in gain.values())
    assert str(found)


def test_a_limit_that_is_none(net, data):
    with pytest.raises(InvalidInput, match="limit is 0; expected one sample or more"):
        tn.diagnose(net, data, limit=0)


# What is left in the model


@pytest.mark.parametrize("cause", PATIENTS)
def test_nothing_is_left(cause):
    net, data, how = PATIENTS[cause]()
    before, things = patients.bits(net), patients.everything_else(net)
    tn.diagnose(net, data, **how)
    patients.assert_same_bits(net.state_dict(), before)
    assert patients.everything_else(net) == things


def test_what_is_left_would_be_seen(net):
    """Planted: each of the things that could be left."""
    for change in (
        lambda: net.bn1.eval() if net.bn1.training else net.bn1.train(),
        lambda: net.fc1.register_forward_hook(lambda *_: None),
        lambda: setattr(net.bn2, "momentum", 0.2),
        lambda: setattr(net.bn2, "eps", 0.2),
        lambda: setattr(net.bn1, "running_mean", net.bn1.running_mean.clone()),
        lambda: net.head.weight.requires_grad_(False),
        lambda: torch.rand(1),
        lambda: np.random.rand(),
    ):
        things = patients.everything_else(net)
        change()
        assert patients.everything_else(net) != things
    before = patients.bits(net)
    net.bn1.running_var[0] += 1
    with pytest.raises(AssertionError):
        patients.assert_same_bits(net.state_dict(), before)


def test_nothing_is_left_of_loaders_that_draw_and_of_a_score_that_draws(data):
    net, batches = patients.intricate()
    before, things = patients.bits(net), patients.everything_else(net)
    tn.diagnose(net, patients.Stopping(batches), score=lambda y, b: float(torch.rand(1) + np.random.rand()))
    patients.assert_same_bits(net.state_dict(), before)
    assert patients.everything_else(net) == things


ERRORS = [RuntimeError, KeyboardInterrupt]


@pytest.mark.parametrize("error", ERRORS)
def test_stopped_before_any_batch(error):
    net, batches = patients.intricate()
    loader = patients.Stopping(batches)
    assert patients.left_as_it_was(net, lambda: tn.diagnose(net, loader), loader.at, error) == len(batches)


@pytest.mark.parametrize("error", ERRORS)
def test_stopped_inside_any_forward(error):
    """Of every pass: those that measure, those that score, and those of each cause."""
    net, batches = patients.intricate()
    stopped = patients.left_as_it_was(net, lambda: tn.diagnose(net, batches), net.stop.at, error)
    assert stopped > 50


@pytest.mark.parametrize(("error", "raised"), [(RuntimeError, InvalidInput), (KeyboardInterrupt, KeyboardInterrupt)])
def test_stopped_inside_any_score(error, raised):
    net, batches = patients.intricate()
    stop = patients.Stop()

    def score(output, batch):
        return -F.cross_entropy(stop(output), batch[1])

    assert patients.left_as_it_was(net, lambda: tn.diagnose(net, batches, score=score), stop.at, error, raised) >= 5


def test_gradients_flow_through_a_forward_made_before(data):
    net = patients.sound().train()
    loss = net(data[0][0]).square().sum()
    tn.diagnose(net, data)
    loss.backward()
    twin = patients.sound().train()
    twin(data[0][0]).square().sum().backward()
    assert torch.equal(net.fc1.weight.grad, twin.fc1.weight.grad)


# How it shows itself


class Texts(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.texts, self.tags = [], set()
        self.feed(html)
        self.close()

    def handle_data(self, data):
        self.texts.append(data)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


NASTY = "<b>[red]norm & co[/red]</b>"


@pytest.fixture
def nasty(data):
    net = nn.Sequential(OrderedDict([("fc", nn.Linear(4, 8, bias=False)), (NASTY, nn.BatchNorm1d(8))]))
    return tn.diagnose(net, data)


def test_layer_names_are_text_everywhere(nasty):
    assert nasty.layers[0].layer == NASTY
    assert nasty.findings[0].layers == (NASTY,) and NASTY in nasty.findings[0].sentence
    shown = Texts(nasty._repr_html_())
    assert shown.tags == {"table", "caption", "thead", "tr", "th", "tbody", "td", "p", "dl", "dt", "dd"}
    assert NASTY in shown.texts and nasty.findings[0].sentence in shown.texts
    assert f" {NASTY} " in plain(nasty, 200)
    assert nasty.findings[0].sentence in plain(nasty, 1000)


def test_print_shows_what_a_terminal_shows(nasty):
    assert str(nasty) == plain(nasty)
    assert all(len(line) <= 120 for line in str(nasty).splitlines())
    assert str(nasty).split()[-len(said := sentences(nasty)) :] == said


def test_the_lines_are_in_the_order_in_which_they_are_read(data):
    net, data, _ = patients.initial()
    net.fc1.bias = nn.Parameter(torch.zeros(8))
    assert [what for what, _ in tn.diagnose(net, data).lines()] == ["verdict", "cause", "note", "looked", "do"]
    assert [what for what, _ in tn.diagnose(patients.sound(), data).lines()] == [
        "verdict",
        "not",
        "else",
        "looked",
        "do",
    ]


def test_many_layers_are_cut(data):
    net = nn.Sequential(nn.Linear(4, 4), *[nn.BatchNorm1d(4) for _ in range(15)])
    found = tn.diagnose(net, data)
    table = found.tables()[0]
    assert len(found.layers) == 15 and len(table.rows) == 12
    assert table.notes == ("and 3 more layers, less harmful",)


def test_as_a_record():
    net, data, _ = patients.initial()
    found = tn.diagnose(net, data)
    record = found.record(command="by hand")
    assert tn.Record.loads(record.dumps()).rows == record.rows
    assert record.command == "by hand"
    kept = record.trials["diagnosis"]
    assert kept["cause"] == "initial values" and kept["outcome"]["kind"] == "repairable"
    assert kept["findings"][0]["evidence"]["batches"] == 40
    assert kept["findings"][0]["explained"] > 0.9
    assert kept["findings"][0]["sentence"] == found.findings[0].sentence
    assert kept["steps"][0]["remedy"]["kind"] == "repair statistics"
    assert kept["looked"]["measured"] == 512
    values = {(row.arm, row.layer, row.metric): row.value for row in record.rows}
    assert len(values) == len(record.rows)
    for layer in found.layers:
        assert values["stored", layer.layer, "shift.arriving"] == layer.off
        assert values["stored", layer.layer, "effect"] == layer.effect
    for name, scores in found.scores.items():
        for metric, value in scores.items():
            assert values["stored" if name == "as it is" else name, None, metric] == value


@pytest.mark.parametrize("cause", PATIENTS)
def test_every_diagnosis_shows_itself_and_is_a_record(cause):
    net, data, how = PATIENTS[cause]()
    found = tn.diagnose(net, data, **how)
    assert found.verdict in " ".join(str(found).split())
    assert found._repr_html_()
    assert "\n" not in repr(found) and len(repr(found)) < 100
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == found
    text = found.record().dumps()
    assert tn.Record.loads(text).dumps() == text


def test_a_record_is_what_is_read_back():
    net, data, _ = patients.never()
    record = tn.diagnose(net, data).record()
    assert tn.Record.loads(record.dumps()) == record


def test_the_split_of_the_data_shares_nothing(data):
    numbered = [(torch.arange(i * 32, i * 32 + 32).float()[:, None].expand(-1, 4), y) for i, (_, y) in enumerate(data)]
    measured, held_out = take_sample(numbered, limit=10**6).parts()
    parts = [{int(v) for batch in part.batches for v in batch.images[:, 0]} for part in (measured, held_out)]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 1024


def test_its_repr_is_one_line(data):
    assert repr(tn.diagnose(patients.initial()[0], data)) == snapshot(
        "Diagnosis(healthy=False, cause='initial values', 2 of 2 layers off)"
    )
    assert repr(tn.diagnose(patients.sound())) == snapshot("Diagnosis(healthy=True, cause=None, no layer measured)")
