"""What statistics are worth: figures by hand, and whatever a user's score may give."""

import math
from types import SimpleNamespace

import numpy as np
import patients
import pytest
import torch
from inline_snapshot import snapshot
from scipy import stats
from torch import nn
from torch.nn import functional as F

import truenorm as tn
from truenorm.data.sample import take_sample
from truenorm.doctor.score import OWN, Scored, scored
from truenorm.doctor.target import ACCURACY, LIKELIHOOD, SQUARED
from truenorm.errors import InvalidInput


@pytest.fixture
def net():
    return patients.sound()


@pytest.fixture
def data():
    return patients.blobs(4, seed=2)


def by_hand(net, data):
    """Right or wrong, and ln of the softmax of the label, for each sample; NumPy, float64."""
    x, y = patients.joined(data)
    with torch.no_grad():
        logits = net.eval()(x).double().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = np.arange(len(y))
    return (logits.argmax(1) == y.numpy()).astype(float), np.log(shares[rows, y.numpy()])


def test_accuracy_and_log_likelihood_by_hand(net, data):
    found = scored(net, take_sample(data, limit=10**6))
    right, likelihood = by_hand(net, data)
    assert found.values[ACCURACY].tolist() == right.tolist()
    np.testing.assert_allclose(found.values[LIKELIHOOD].numpy(), likelihood, rtol=1e-6, atol=1e-6)
    assert found.mean(ACCURACY) == pytest.approx(right.mean())
    assert 0.5 < right.mean() < 1


def test_under_lent_statistics(net, data):
    """As if they were assigned; and the model is given back."""
    other = tn.measure(net, [x + 1 for x, _ in data])
    before, things = patients.bits(net), patients.everything_else(net)
    found = scored(net, take_sample(data, limit=10**6), statistics=other)
    patients.assert_same_bits(net.state_dict(), before)
    assert patients.everything_else(net) == things
    tn.assign(net, other)
    right, likelihood = by_hand(net, data)
    assert found.values[ACCURACY].tolist() == right.tolist()
    np.testing.assert_allclose(found.values[LIKELIHOOD].numpy(), likelihood, rtol=1e-6, atol=1e-6)


def test_a_gain_is_the_paired_difference_with_its_t_interval():
    a, b = torch.rand(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    gain = Scored({OWN: a}).gain(Scored({OWN: b}))[OWN]
    difference = (a - b).numpy()
    assert gain.mean == pytest.approx(difference.mean())
    assert gain.half_width == pytest.approx(stats.t.ppf(0.975, 49) * difference.std(ddof=1) / math.sqrt(50))


def test_one_more_right_answer_is_no_certainty():
    """An accuracy moves by one sample at least; of equal differences nobody knows the spread."""
    one, none = torch.zeros(20, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)
    one[3] = 1
    gain = Scored({ACCURACY: one}).gain(Scored({ACCURACY: none}))
    assert gain[ACCURACY].mean == pytest.approx(1 / 20)
    assert not Scored({ACCURACY: one}).beats(Scored({ACCURACY: none}))


def pairs(means, widths, n=400):
    """Scores as they are and better by these means, whose 95 % intervals have these half widths."""
    noise = torch.linspace(-1, 1, n, dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    critical = stats.t.ppf(0.975, n - 1)
    before = {metric: torch.zeros(n, dtype=torch.float64) for metric in means}
    after = {metric: means[metric] + noise * widths[metric] * n**0.5 / critical for metric in means}
    return Scored(after), Scored(before)


@pytest.mark.parametrize(
    ("gains", "counts"),
    [
        ({ACCURACY: (0.1, 0.02)}, True),
        ({ACCURACY: (0.1, 0.09)}, False),  # one of three: wider than it is shown
        ({ACCURACY: (0.0, 0.0)}, False),
        ({ACCURACY: (0.0015, 0.0001)}, False),  # certain, and worth nothing
        ({LIKELIHOOD: (0.019, 0.001)}, False),
        ({LIKELIHOOD: (0.021, 0.001)}, True),
        ({ACCURACY: (0.1, 0.02), LIKELIHOOD: (-0.5, 0.6)}, True),
        ({ACCURACY: (0.01, 0.002), LIKELIHOOD: (-0.5, 0.4)}, False),
        ({ACCURACY: (0.1, 0.02), LIKELIHOOD: (-0.5, 0.4)}, True),  # ten points, with too much confidence
        ({ACCURACY: (-0.1, 0.02), LIKELIHOOD: (0.5, 0.1)}, False),
        ({OWN: (1e-6, 1e-7)}, True),
    ],
)
def test_what_counts_as_a_gain(gains, counts):
    after, before = pairs({m: g[0] for m, g in gains.items()}, {m: g[1] for m, g in gains.items()})
    assert after.beats(before) is counts


@pytest.mark.parametrize("metrics", [1, 2])
def test_the_more_is_compared_the_wider_an_interval_has_to_be(metrics):
    names = (OWN, SQUARED)[:metrics]
    wider = stats.norm.ppf(1 - 0.05 / (3 * metrics) / 2) / stats.norm.ppf(1 - 0.05 / 2)
    for factor, counts in ((1.001, True), (0.999, False)):
        after, before = pairs(dict.fromkeys(names, 1.0), dict.fromkeys(names, 1 / wider / factor))
        assert after.beats(before) is counts


# A score of the user's


def test_a_score_of_each_sample(net, data):
    found = scored(net, take_sample(data, limit=10**6), score=lambda y, b: -F.cross_entropy(y, b[1], reduction="none"))
    np.testing.assert_allclose(found.values[OWN].numpy(), by_hand(net, data)[1], rtol=1e-5, atol=1e-5)
    assert list(found.values) == [OWN]


@pytest.mark.parametrize("kind", [lambda v: v, float, lambda v: v.numpy()], ids=["tensor", "number", "numpy"])
def test_a_score_of_each_batch(net, data, kind):
    found = scored(net, take_sample(data, limit=10**6), score=lambda y, b: kind(-F.cross_entropy(y, b[1])))
    expected = by_hand(net, data)[1].reshape(4, 32).mean(1)
    np.testing.assert_allclose(found.values[OWN].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_it_is_what_diagnose_and_repair_go_by():
    net, data, _ = patients.never()
    found = tn.diagnose(net, data, score=lambda y, b: (y.argmax(1) == b[1]).float())
    own = tn.diagnose(net, data)
    assert found.scores["as it is"] == {OWN: own.scores["as it is"][ACCURACY]}
    assert found.best and not found.healthy
    done = tn.repair(net, data, score=lambda y, b: (y.argmax(1) == b[1]).float())
    assert done.chosen and list(done.scores[done.chosen]) == [OWN]


def test_a_score_that_is_turned_round_is_obeyed():
    """More is better: by a loss without its minus the right statistics are worse."""
    net, data, _ = patients.never()
    before = patients.bits(net)
    assert tn.repair(net, data, score=lambda y, b: F.cross_entropy(y, b[1], reduction="none")).chosen is None
    patients.assert_same_bits(net.state_dict(), before)


def refused(net, data, score):
    """The same sentence from both, and nothing is changed."""
    before, things = patients.bits(net), patients.everything_else(net)
    said = set()
    for examine in (tn.diagnose, tn.repair):
        with pytest.raises(InvalidInput) as error:
            examine(net, data, score=score)
        said.add(str(error.value))
    patients.assert_same_bits(net.state_dict(), before)
    assert patients.everything_else(net) == things
    (sentence,) = said
    return sentence


def test_scores_that_are_none(net, data):
    assert refused(net, data, lambda y, b: {}["key"]) == snapshot("score(output, batch) failed: KeyError: 'key'")
    assert refused(net, data, lambda y: 0.0) == snapshot(
        "score(output, batch) failed: TypeError: test_scores_that_are_none.<locals>.<lambda>() takes 1 positional argument but 2 were given"
    )
    assert refused(net, data, lambda y, b: "good") == snapshot(
        "score(output, batch) gave str; expected a number, or a tensor of one for each sample"
    )
    assert refused(net, data, lambda y, b: None) == snapshot(
        "score(output, batch) gave NoneType; expected a number, or a tensor of one for each sample"
    )
    assert refused(net, data, lambda y, b: y) == snapshot(
        "score(output, batch) gave a tensor of shape (32, 3); expected a number, or a tensor of one for each sample"
    )
    assert refused(net, data, lambda y, b: y[:0, 0]) == snapshot(
        "score(output, batch) gave a tensor of shape (0,); expected a number, or a tensor of one for each sample"
    )


def test_what_the_score_raises_on_purpose_is_not_wrapped(net, data):
    def score(output, batch):
        raise InvalidInput("no such thing")

    assert refused(net, data, score) == "no such thing"


@pytest.mark.parametrize("make", [patients.not_finite, patients.negative])
def test_a_score_that_is_nan_because_the_statistics_are(make):
    """It is what one comes with: the loss is NaN in eval()."""
    net, data, _ = make()
    found = tn.diagnose(net, data, score=lambda y, b: -F.cross_entropy(y, b[1], reduction="none"))
    assert found.cause in ("not finite", "negative variance") and not found.healthy
    assert tn.repair(net, data, score=lambda y, b: -F.cross_entropy(y, b[1], reduction="none")).chosen


def test_a_score_that_is_always_nan_is_named(net, data):
    assert "score(output, batch)" in refused(net, data, lambda y, b: math.nan)


# Outputs and labels


class Wrapped(nn.Module):
    def __init__(self, net, wrap):
        super().__init__()
        self.net, self.wrap = net, wrap

    def forward(self, x):
        return self.wrap(self.net(x))


@pytest.mark.parametrize(
    "wrap",
    [lambda y: SimpleNamespace(logits=y, loss=None), lambda y: (y, None), lambda y: [y], lambda y: y.half()],
    ids=["transformers", "tuple", "list", "half"],
)
def test_outputs_as_models_have_them(net, data, wrap):
    found = scored(Wrapped(net, wrap), take_sample(data, limit=10**6))
    right, likelihood = by_hand(net, data)
    assert found.mean(ACCURACY) == pytest.approx(right.mean(), abs=0.01)
    assert found.mean(LIKELIHOOD) == pytest.approx(likelihood.mean(), abs=1e-3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_outputs_that_are_not_finite_are_wrong(net, data, value):
    """Not left out, and no NaN: the least probability there is."""

    def spoil(y):
        y = y.clone()
        y[:8] = value
        return y

    found = scored(Wrapped(net, spoil), take_sample(data[:1], limit=10**6))
    right, likelihood = by_hand(net, data[:1])
    assert found.values[ACCURACY].tolist() == [0.0] * 8 + right[8:].tolist()
    np.testing.assert_allclose(found.values[LIKELIHOOD].numpy()[:8], np.log(1e-12))
    np.testing.assert_allclose(found.values[LIKELIHOOD].numpy()[8:], likelihood[8:], rtol=1e-6, atol=1e-6)


def test_a_prediction_that_is_surely_wrong_is_bounded(net, data):
    found = scored(Wrapped(net, lambda y: 1e6 * y), take_sample(data, limit=10**6))
    assert found.values[LIKELIHOOD].min() == pytest.approx(math.log(1e-12))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_labels_of_any_integer_type(net, data, dtype):
    labelled = [(x, (y == 1).to(dtype)) for x, y in data]
    expected = by_hand(net, [(x, (y == 1).long()) for x, y in data])[0].mean()
    assert scored(net, take_sample(labelled, limit=10**6)).mean(ACCURACY) == pytest.approx(expected)


def test_labels_that_are_no_classes_of_the_model(net, data):
    def said(labels):
        with pytest.raises(InvalidInput) as error:
            tn.diagnose(net, [(x, labels(y)) for x, y in data])
        return str(error.value)

    assert said(lambda y: y + 1) == snapshot(
        "the data have a class 3, the model gives 3 of them (0 is the first): either it is not the model of these data, or these labels are not classes and need a score of their own; pass score=lambda output, batch: ..."
    )
    assert "class -1" in said(lambda y: y * 0 - 1)


def test_a_negative_label_is_named(net, data):
    data[0][1][0] = -100
    with pytest.raises(InvalidInput, match="class -100"):
        scored(net, take_sample(data, limit=10**6))


@pytest.mark.parametrize(
    "label",
    [lambda x, y: x, lambda x, y: (x, y.float()), lambda x, y: (x, F.one_hot(y, 4)), lambda x, y: (x, y.tolist())],
    ids=["none", "floats", "one-hot of other classes", "lists"],
)
def test_what_holds_no_classes_is_not_scored(net, data, label):
    sample = take_sample([label(x, y) for x, y in data], limit=10**6)
    assert scored(net, sample) is None
    assert scored(net, sample, score=lambda y, b: y.mean(1)) is not None


def test_an_output_that_is_no_tensor_of_classes_is_not_scored(net, data):
    sample = take_sample(data, limit=10**6)
    for wrap in (lambda y: {"loss": y}, lambda y: y[..., None], lambda y: y[:3], lambda y: "cat"):
        assert scored(Wrapped(net, wrap), sample) is None


def test_forward_says_how_a_batch_is_run(net, data):
    named = [{"x": x, "label": y} for x, y in data]
    found = scored(net, take_sample(named, limit=10**6), forward=lambda model, batch: model(batch["x"]))
    assert found.values[ACCURACY].tolist() == by_hand(net, data)[0].tolist()


def test_prepare_is_undone(net, data):
    net.add_module("drop", nn.Dropout(0.5))
    things = patients.everything_else(net.eval())
    with torch.random.fork_rng():
        noisy = scored(net, take_sample(data, limit=10**6), prepare=lambda model: model.drop.train())
    assert noisy.mean(LIKELIHOOD) != scored(net, take_sample(data, limit=10**6)).mean(LIKELIHOOD)
    assert patients.everything_else(net) == things
