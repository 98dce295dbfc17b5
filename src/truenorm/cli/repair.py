"""`truenorm repair`."""

from pathlib import Path


def repair(
    *,
    model: str,
    checkpoint: Path,
    data: str,
    out: Path,
    held_out: str | None = None,
    data_root: str | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    tolerance: float | None = None,
    key: str | None = None,
    trust_checkpoint: bool = False,
    device: str = "cpu",
) -> None:
    """Measure the statistics of batch norm anew, and write a checkpoint with them, if they do better.

    Better is what scores better on held-out samples, beyond noise. If none does, nothing is written. The checkpoint
    that came is never written over.

    Args:
        model: file.py:factory or package.module:factory, called without arguments; or timm:NAME.
        checkpoint: its weights: safetensors, or what torch.save wrote.
        data: training data, with the transforms of inference: file.py:loader, a data set by name, hub id or folder.
        out: the checkpoint to write, in the form that came.
        held_out: data to decide by: file.py:loader; some of the training data unless said.
        data_root: folder with local copies of data sets; else the environment's TRUENORM_DATA.
        batch_size: images per batch, of a data set: best that of training.
        limit: samples to measure; all unless said.
        tolerance: stop once the standard error of all means is below this, in σ.
        key: where in the checkpoint the weights lie, such as state_dict_ema.
        trust_checkpoint: let the checkpoint run code when it is read.
        device: cpu or cuda.
    """
    from truenorm.cli.terminal import console
    from truenorm.data.checkpoint import ensure_new, write_checkpoint
    from truenorm.doctor.repair import repair as mend
    from truenorm.doctor.subject import open_batches, open_network, try_batch

    ensure_new(out, source=checkpoint)
    network, weights = open_network(model, checkpoint, key=key, trust=trust_checkpoint, device=device)
    assert weights is not None
    batches = open_batches(data, "train", root=data_root, batch_size=batch_size)
    try_batch(network, batches)
    judged = None if held_out is None else open_batches(held_out, "test", root=data_root, batch_size=batch_size)
    with console(stderr=True).status("measuring the statistics anew"):
        done = mend(network, batches, held_out=judged, tolerance=tolerance, limit=limit)
    output = console()
    output.print(done)
    if not done.chosen:
        output.print(f"{out} was not written: {checkpoint} is as good", markup=False, soft_wrap=True)
        return
    state = {name: value for name, value in network.state_dict().items() if _is_statistic(name)}
    write_checkpoint(out, weights.with_state(state), source=checkpoint)
    output.print(f"written: {out}", markup=False, soft_wrap=True)


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var")
