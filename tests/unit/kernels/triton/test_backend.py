"""What the backend refuses, and its operators as torch sees them."""

import pytest
import torch
from contract.backends import DEVICE, needs_triton, random
from torch.autograd import forward_ad

from truenorm.kernels import Affine, Epilogue, Running, prefer
from truenorm.kernels.registry import BACKENDS, backend_for
from truenorm.kernels.triton import backend

TRITON = BACKENDS["triton"]


def test_on_a_cpu_it_refuses_and_aten_serves():
    assert "the kernels are for NVIDIA GPUs" in TRITON.refusal(torch.randn(4, 3))
    assert backend_for(torch.randn(4, 3)) is BACKENDS["aten"]


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.ones(4, 3, dtype=torch.int32), "none of the floating-point types"),
        (torch.ones(4, 3, dtype=torch.complex64), "none of the floating-point types"),
        (torch.ones(0, 3), "nothing to normalise"),
        (torch.ones(3), "nothing to normalise"),
    ],
)
def test_inputs_that_it_does_not_take(x, reason):
    assert reason in backend._input(x)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_it_leaves_torchs_transformations_to_torchs_operators():
    seen = []

    def look(x):
        seen.append(backend._input(torch.randn(4, 3)))
        return x.sum()

    torch.func.grad(look)(torch.randn(4, 3))
    with forward_ad.dual_level():
        look(torch.randn(4, 3))
    torch.jit.trace(look, torch.randn(4, 3), check_trace=False)
    look(torch.randn(4, 3))
    assert ["torch.func" in seen[0], "forward-mode" in seen[1], "graph is being made" in seen[2]] == [True] * 3
    assert seen[3] is None


def test_what_is_no_plain_tensor_goes_to_aten(monkeypatch):
    monkeypatch.setattr(type(TRITON), "refusal", lambda self, x: None)

    class Other(torch.Tensor):
        pass

    before = prefer("triton")
    try:
        assert backend_for(torch.randn(4, 3).as_subclass(Other)) is BACKENDS["aten"]
    finally:
        prefer(before)


def test_machines_that_it_does_not_know(monkeypatch):
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "7.5 is below 8.0" in backend._machine.__wrapped__(device)
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert "AMD" in backend._machine.__wrapped__(device)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert "pip install 'triton>=3.6'" in backend._machine.__wrapped__(device)


@needs_triton
def test_parameters_of_another_size_are_refused():
    """The kernels would read beyond them."""
    with pytest.raises(ValueError, match="2 values for the 3 channels"):
        TRITON.batch_norm(random(4, 3), Affine(random(2)))
    with pytest.raises(ValueError, match="2 values for the 3 channels"):
        TRITON.normalize(random(4, 3), random(2), random(2), Affine(), Epilogue(activation="relu"))


@needs_triton
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 2, 2)])
def test_operators_keep_torchs_rules(shape):
    from truenorm.kernels.triton.operators import registered

    x, vector, residual = random(*shape), random(3).abs(), random(*shape)
    running = (vector.clone(), vector.clone(), torch.tensor(3, device=DEVICE))
    rule = (None, 0.1, True, "relu", 1e-5, True)
    calls = [
        (registered.batch_norm.default, (x, vector, vector, residual, *running, *rule)),
        (
            registered.batch_norm.default,
            (x, None, None, None, None, None, None, None, None, False, "identity", 1e-5, False),
        ),
        (registered.normalize.default, (x, vector, vector, vector, vector, residual, "relu", 1e-5, True)),
        (registered.moments.default, (x,)),
    ]
    _, mean, mean_lo, var, bits = registered.batch_norm(x, vector, vector, residual, None, None, None, *rule)
    moments = (mean, mean_lo, var, bits, "relu", 1e-5, True)
    calls.append((registered.batch_norm_backward.default, (x, x, vector, vector, *moments)))
    given = (mean, var, vector, vector, bits, "relu", 1e-5, True, True, True)
    calls.append((registered.normalize_backward.default, (x, x, *given)))
    for operator, arguments in calls:
        torch.library.opcheck(operator, arguments)


@needs_triton
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own insides
def test_the_kernels_fit_into_a_compiled_graph():
    """By the backend itself; layers take aten there, so that what is exported needs no truenorm."""

    def step(x, weight, running_mean, running_var, count, residual):
        running = Running(running_mean, running_var, count, 0.1, "pooled")
        return TRITON.batch_norm(x, Affine(weight), Epilogue(residual, "relu"), running)[0]

    def buffers():
        return torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE), torch.tensor(0, device=DEVICE)

    x, residual, weight = random(5, 3, 4), random(5, 3, 4), torch.ones(3, device=DEVICE)
    results = []
    for function in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        mine, kept = [value.clone().requires_grad_() for value in (x, weight, residual)], buffers()
        y = function(mine[0], mine[1], *kept, mine[2])
        y.square().sum().backward()
        results.append([y.detach(), *kept, *(value.grad for value in mine)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert results[1][3] == 1
