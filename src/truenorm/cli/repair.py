"""`truenorm repair`."""

import sys
from pathlib import Path
from typing import Any


def repair(
    *,
    model: str,
    checkpoint: Path,
    data: str,
    out: Path,
    held_out: str | None = None,
    data_root: str | None = None,
    batch_size: int = 64,
    image_size: int | None = None,
    limit: int | None = None,
    tolerance: float | None = None,
    key: str | None = None,
    trust_checkpoint: bool = False,
    device: str = "cpu",
    score: str | None = None,
    forward: str | None = None,
) -> None:
    """Measure the statistics of batch norm anew, and write a checkpoint with them, if they do better.

    Better is what scores better on held-out samples, beyond noise. If none does, nothing is written. The checkpoint
    that came is never written over. Exit code 0: written; 3: nothing does better; 2: wrong use.

    Args:
        model: file.py:factory or package.module:factory, called without arguments; or timm:NAME.
        checkpoint: its weights: safetensors, or what torch.save wrote.
        data: training data, with the transforms of inference: file.py:loader, a data set by name, hub id or folder.
        out: the checkpoint to write, in the form that came.
        held_out: data to decide by: file.py:loader; some of the training data unless said.
        data_root: folder with local copies of data sets; else the environment's TRUENORM_DATA.
        batch_size: images per batch, of a data set: best that of training.
        image_size: bring all images of a data set to this height and width.
        limit: samples to measure; all unless said.
        tolerance: stop once the standard error of all means is below this, in σ.
        key: where in the checkpoint the weights lie, such as state_dict_ema.
        trust_checkpoint: let the checkpoint run code when it is read.
        device: cpu or cuda.
        score: file.py:function of (output, batch): a number, or one for each sample; more is better. Accuracy and
            log likelihood unless said.
        forward: file.py:function of (model, batch), where model(images) is not it.
    """
    from truenorm.cli.opening import open_batches, open_functions, open_network, try_batch, unchanged, users_code
    from truenorm.cli.terminal import console
    from truenorm.data.checkpoint import ensure_new, write_checkpoint
    from truenorm.doctor.repair import repair as mend
    from truenorm.files import ensure_writable
    from truenorm.model.layers import statistic_keys

    ensure_new(out, source=checkpoint)
    ensure_writable(out.parent)
    network, weights = open_network(model, checkpoint, key=key, trust=trust_checkpoint, device=device)
    assert weights is not None
    with unchanged(weights, score, forward):
        functions = open_functions(score=score, forward=forward)
    reading: dict[str, Any] = {"root": data_root, "batch_size": batch_size, "image_size": image_size}
    with unchanged(weights, data, held_out):
        batches = open_batches(data, "train", **reading)
        judged = None if held_out is None else open_batches(held_out, "test", **reading)
    if forward is None:
        with unchanged(weights, model, data):
            try_batch(network, batches)
    measuring = console(stderr=True).status("measuring the statistics anew")
    code = (model, data, held_out, score, forward)
    with measuring, users_code("measuring the statistics"), unchanged(weights, *code):
        done = mend(network, batches, held_out=judged, tolerance=tolerance, limit=limit, **functions)
    output = console()
    if done.chosen is None:
        output.print(done)
        output.print(f"{out} was not written: {checkpoint} is as good", markup=False, soft_wrap=True)
        sys.exit(3)
    written = statistic_keys(network) | set(weights.lacks)
    state = {name: value for name, value in network.state_dict().items() if name in written}
    rewritten = weights.with_state(state)
    write_checkpoint(out, rewritten.data, source=checkpoint)
    output.print(done)
    output.print(f"written: {out}", markup=False, soft_wrap=True)
    for name, kind in rewritten.widened.items():
        what = f"note: {name} is float32 there: {str(kind).removeprefix('torch.')}, its type so far, cannot hold it"
        output.print(what, markup=False, soft_wrap=True)
    if weights.lacks:
        output.print(f"note: {checkpoint} held no running statistics; they were added")
