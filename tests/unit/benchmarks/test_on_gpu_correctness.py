"""The checks themselves: torch's kernels pass them, and planted bugs do not."""

import pytest
import torch
from on_gpu import correctness, special
from on_gpu.correctness import Case

from truenorm.kernels import BACKENDS, track

ATEN = BACKENDS["aten"]


class Broken:
    """torch's kernels, and something done to what comes out."""

    def __init__(self, spoil):
        self.spoil = spoil

    def refusal(self, x):
        return None

    def batch_norm(self, x, *given):
        y, mean, var = ATEN.batch_norm(x, *given)
        return self.spoil(y), mean, var

    def normalize(self, x, *given):
        return self.spoil(ATEN.normalize(x, *given))


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("given", [False, True])
def test_torch_passes(dtype, layout, given):
    case = Case(dtype=dtype, layout=layout, size=(4, 24, 7, 7), activation="relu", residual=True, given=given)
    row = correctness.check(case, ATEN, "cpu")
    assert row["ok"], row
    assert set(row["errors"]) == {"y", "dx", "dweight", "dbias", "dresidual"} | (set() if given else {"mean", "var"})
    assert row["errors"]["y"]["ours"] == row["errors"]["y"]["native"]


@pytest.mark.parametrize("activation", ["silu", "gelu", "hardswish", "leaky_relu"])
def test_every_activation_and_other_shapes(activation):
    for layout, size in (("NC", (37, 5)), ("NCL", (6, 5, 9)), ("NHWC", (2, 5, 3, 4, 4))):
        case = Case(dtype="fp32", layout=layout, size=size, activation=activation)
        assert correctness.check(case, ATEN, "cpu")["ok"]


def test_some_channels_are_those_of_all():
    case = Case(dtype="fp32", layout="NCHW", size=(4, 24, 7, 7), activation="relu", residual=True, channels=(0, 5, 23))
    row = correctness.check(case, ATEN, "cpu")
    assert row["ok"] and "native" not in row["errors"]["y"]
    broken = Broken(lambda y: torch.cat([y[:, :23], 1.01 * y[:, 23:]], 1))
    assert correctness.check(case, broken, "cpu")["ok"] is False


def element(y):
    wrong = torch.zeros_like(y)
    wrong.view(-1)[7] = 3.0
    return y + wrong


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda y: y * 1.01, "off: y"),
        (lambda y: y * float("nan"), "off: y"),
        (element, "off: y"),
        (lambda y: y.detach() + 0.9 * (y - y.detach()), "off: dx"),
        (lambda y: y.double(), "TypeError: y is torch.float64"),
        (lambda y: y.contiguous(memory_format=torch.channels_last), "TypeError: y has strides"),
        (lambda y: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_found(spoil, said):
    case = Case(dtype="bf16", layout="NCHW", size=(8, 24, 14, 14), activation="relu")
    row = correctness.check(case, Broken(spoil), "cpu")
    assert row["ok"] is False
    assert row["error"].startswith(said)


def test_a_refused_input_is_neither_right_nor_wrong():
    backend = Broken(lambda y: y)
    backend.refusal = lambda x: "too odd"
    row = correctness.check(Case(dtype="fp32", layout="NC", size=(8, 3)), backend, "cpu")
    assert row["ok"] is None and row["error"] == "refused: too odd"


def test_far_from_zero_torchs_error_does_not_do():
    case = Case(dtype="fp32", layout="NHWC", size=(8, 64, 14, 14), activation="relu", offset=1e4)
    assert correctness.check(case, ATEN, "cpu")["ok"] is False


def test_special_checks_pass_on_torch_and_fail_on_bugs():
    rows = {name: special.special(name, ATEN, "cpu") for name in special.CHECKS if name not in ("the same again",)}
    assert {name for name, row in rows.items() if row["ok"] is False} == set()
    assert {name for name, row in rows.items() if row["ok"] is None} == {
        "the same beside other work",
        "CUDA graph",
    }
    assert special.special("a NaN is kept", Broken(torch.nan_to_num), "cpu")["ok"] is False
    drifting = Broken(lambda y: y + torch.rand(()).to(y.dtype))
    assert special.special("the same again", drifting, "cpu")["ok"] is False
    assert special.special("one value is refused", Broken(lambda y: y), "cpu")["ok"]


def test_running_statistics_are_held_to_both_recursions():
    class Tracking:
        """The layers' own recursion, in place of kernels."""

        def __init__(self, slip=1.0):
            self.slip = slip

        def batch_norm(self, x, affine, epilogue, running):
            y, m, v = ATEN.batch_norm(x.float(), affine, epilogue)
            track(running, m, v * self.slip, count=x.numel() // len(m))
            return y, m, v

    for momentum_is_no_tensor in (0.1, None):
        for tracking in ("pooled", "torch"):
            state = special._State(3, "cpu")
            batches = [torch.randn(8, 3) + i for i in range(3)]
            for x in batches:
                state.step(Tracking(), x, momentum_is_no_tensor, tracking)
            assert state.wrong(batches, [momentum_is_no_tensor] * 3, tracking) is None
            assert state.wrong(batches[:2], [momentum_is_no_tensor] * 2, tracking) == "counted 3 of 2 batches"
            state.reset()
            for x in batches:
                state.step(Tracking(1.01), x, momentum_is_no_tensor, tracking)
            assert "off by" in state.wrong(batches, [momentum_is_no_tensor] * 3, tracking)
