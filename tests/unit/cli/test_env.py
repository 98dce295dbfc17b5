import pytest
import torch
from inline_snapshot import snapshot

from truenorm.kernels import registry
from truenorm.kernels.registry import BACKENDS


@pytest.fixture
def env(truenorm, monkeypatch):
    """What it prints on one certain machine without a GPU."""
    machine = {"system": "Linux", "architecture": "x86_64", "processor": "a processor", "cores": 2}
    monkeypatch.setattr("truenorm.__version__", "1.2.3")
    monkeypatch.setattr("truenorm.record.this_machine", lambda: machine)
    monkeypatch.setattr("truenorm.record.installed_versions", lambda *names: {name: f"its {name}" for name in names})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)

    def run():
        ended = truenorm("env")
        assert (ended.code, ended.err) == (0, "")
        return ended.text

    return run


def test_versions_devices_and_reasons(env):
    assert env() == snapshot("""\
Environment

 what           which
 ───────────────────────────────────────────────────────
 truenorm       1.2.3
 torch          its torch
 triton         its triton
 numpy          its numpy
 torchvision    its torchvision
 timm           its timm
 lightning      its lightning
 transformers   its transformers
 system         Linux x86_64
 cuda           none
 gpu            none: this torch was built for CPUs
 cpu            a processor, 2 cores, 1 threads of torch

Backends: who normalises float32 images in eager mode

 device   backend   used   why not
 ─────────────────────────────────────────────────────────
 cpu         aten    yes
 cpu       triton     no   the kernels are for NVIDIA GPUs

Of layers truenorm's ask this; torch's do after
truenorm.convert(model).
Preferred: aten. The Triton kernels have never run on a
GPU, and serve only where they are asked for:
TRUENORM_KERNELS=triton, or
truenorm.kernels.prefer('triton').
While compiling, exporting or tracing, under torch.func and
in forward mode it is aten everywhere.
""")


def test_a_backend_that_is_asked_for_and_takes_the_input_is_the_one_that_is_used(env, monkeypatch):
    monkeypatch.setattr(type(BACKENDS["triton"]), "refusal", lambda self, x: None)
    monkeypatch.setattr("truenorm.record.installed_versions", lambda *names: {})
    assert env() == snapshot("""\
Environment

 what       which
 ───────────────────────────────────────────────────
 truenorm   1.2.3
 system     Linux x86_64
 cuda       none
 gpu        none: this torch was built for CPUs
 cpu        a processor, 2 cores, 1 threads of torch

triton is not installed; run: pip install
'triton>=3.6'
Backends: who normalises float32 images in eager mode

 device   backend   used   why not
 ───────────────────────────────────────────────────────────────────────────────
 cpu         aten    yes
 cpu       triton     no   serves where it is asked for: TRUENORM_KERNELS=triton

Of layers truenorm's ask this; torch's do after truenorm.convert(model).
Preferred: aten. The Triton kernels have never run on a GPU, and serve only where
they are asked for: TRUENORM_KERNELS=triton, or
truenorm.kernels.prefer('triton').
While compiling, exporting or tracing, under torch.func and in forward mode it is
aten everywhere.
""")
    monkeypatch.setattr(registry, "_preferred", "triton")
    assert env() == snapshot("""\
Environment

 what       which
 ───────────────────────────────────────────────────
 truenorm   1.2.3
 system     Linux x86_64
 cuda       none
 gpu        none: this torch was built for CPUs
 cpu        a processor, 2 cores, 1 threads of torch

triton is not installed; run: pip install
'triton>=3.6'
Backends: who normalises float32 images
in eager mode

 device   backend   used   why not
 ──────────────────────────────────────
 cpu         aten     no   after others
 cpu       triton    yes

Of layers truenorm's ask this; torch's
do after truenorm.convert(model).
Preferred: triton. The Triton kernels
have never run on a GPU, and serve only
where they are asked for:
TRUENORM_KERNELS=triton, or
truenorm.kernels.prefer('triton').
While compiling, exporting or tracing,
under torch.func and in forward mode it
is aten everywhere.
""")
