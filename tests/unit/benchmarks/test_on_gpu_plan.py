"""Bytes, shapes and the lists of cases, against the figures that were worked out by hand."""

from math import prod

import pytest
from on_gpu import plan
from on_gpu.shapes import (
    BATCH,
    FUSIONS,
    KERNELS,
    RESNET50,
    floor_bytes,
    kernel_floor_bytes,
    layers,
    network_floor_bytes,
)
from on_gpu.split import ours, part


def test_the_network_has_53_batch_norms_and_the_bytes_of_the_table():
    assert sum(count for _, _, count in layers()) == 53
    assert len(RESNET50) == 12
    elements = sum(count * prod(shape.size(BATCH)) for shape, _, count in layers())
    assert round(2 * elements / 1e9, 3) == 5.690
    assert round(network_floor_bytes("bf16", "forward") / 1e9, 2) == 20.07
    assert round(network_floor_bytes("bf16", "backward") / 1e9, 2) == 31.45


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_kernels_move_what_their_passes_do(fusion, dtype):
    size = (4, 24, 7, 7)
    passes = {"forward": ("stats", "finalize", "apply"), "backward": ("bwd_reduce", "bwd_finalize", "bwd_apply")}
    for passed, kernels in passes.items():
        moved = sum(kernel_floor_bytes(size, dtype, fusion, kernel) for kernel in kernels)
        assert moved == floor_bytes(size, dtype, fusion, passed)
    both = floor_bytes(size, dtype, fusion, "forward+backward")
    assert both == sum(floor_bytes(size, dtype, fusion, passed) for passed in passes)


def test_what_decides_is_timed_first_and_nothing_twice():
    first, rest = plan.timed_first(), plan.timed_rest()
    assert len(first) == 32
    assert {(case.shape, case.fusion) for case in first} == {(shape.name, fusion) for shape, fusion, _ in layers()}
    assert {case.key for case in first[:16]} == {case.key for case in first if case.passed == "forward+backward"}
    keys = [case.key for case in [*first, *rest]]
    assert len(keys) == len(set(keys))
    assert {(case.shape, case.fusion) for case in first + rest if case.dtype == "bf16" and case.layout == "NHWC"} == {
        (shape.name, fusion) for shape in RESNET50 for fusion in FUSIONS
    }


def test_checks_cover_types_layouts_and_shapes_that_fit_no_tile():
    cases = plan.compared()
    assert len({case.key for case in cases}) == len(cases)
    assert not {case.key for case in cases} & {case.key for case in plan.compared_too()}
    assert {(case.dtype, case.layout) for case in cases} >= {
        (dtype, layout) for dtype in ("bf16", "fp16", "fp32") for layout in ("NCHW", "NHWC")
    }
    assert {case.size[1] for case in cases} >= {1, 3, 19, 24, 40, 100, 130, 2048}
    assert {case.offset for case in cases} >= {1e3, 1e4}
    assert all(prod(case.size) > 2**31 for case in plan.beyond_32_bits())
    checked = plan.at_timed_shape(plan.timed_first()[0])
    assert checked.channels is not None and max(checked.channels) == checked.size[1] - 1


def test_kernels_are_known_by_their_names():
    assert all(ours(kernel) == kernel for kernel in KERNELS)
    assert ours("void at::native::batch_norm_backward_reduce_kernel<float>(int)") is None
    assert part("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>") == "add"
    assert part("sm90_xmma_fprop_implicit_gemm_bf16bf16") == "convolution"
    assert part("triton_red_fused_native_batch_norm_0") == "compiled"
    assert part("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float>") == "batch norm"
    assert part("Memset (Device)") == "other"
