"""`truenorm diagnose`."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truenorm.doctor.remedy import Remedy


def diagnose(
    *,
    model: str,
    checkpoint: Path | None = None,
    data: str | None = None,
    data_root: str | None = None,
    batch_size: int = 64,
    image_size: int | None = None,
    limit: int | None = None,
    key: str | None = None,
    trust_checkpoint: bool = False,
    device: str = "cpu",
    score: str | None = None,
    forward: str | None = None,
    json: Path | None = None,
    html: Path | None = None,
) -> None:
    """Why is a network good in train() and bad in eval()? Which layer, what cause, and what mending gives.

    The checkpoint is read first and nothing is changed; then the Python files that you name are run.
    Exit code 0: healthy; 3: something is wrong; 2: wrong use.

    Args:
        model: file.py:factory or package.module:factory, called without arguments; or timm:NAME.
        checkpoint: its weights: safetensors, or what torch.save wrote.
        data: held-out data: file.py:loader (called without arguments, gives batches), a data set by name, hub id
            or folder. Without: only what can be seen without data.
        data_root: folder with local copies of data sets; else the environment's TRUENORM_DATA.
        batch_size: images per batch, of a data set.
        image_size: bring all images of a data set to this height and width.
        limit: samples to look at: half to measure, half to score. Up to 2,000 unless said, fewer where these would take
            more than two minutes; the number is printed.
        key: where in the checkpoint the weights lie, such as state_dict_ema.
        trust_checkpoint: let the checkpoint run code when it is read.
        device: cpu or cuda.
        score: file.py:function of (output, batch): a number, or one for each sample; more is better. Accuracy and
            log likelihood unless said.
        forward: file.py:function of (model, batch), where model(images) is not it.
        json: write the figures there, as a record.
        html: write a page there.
    """
    from truenorm.cli.looking import looking
    from truenorm.cli.opening import open_batches, open_functions, open_network, try_batch, unchanged, users_code
    from truenorm.cli.terminal import console
    from truenorm.doctor.diagnose import diagnosed
    from truenorm.files import write_whole
    from truenorm.lab.report.diagnosis import diagnosis_page, read_diagnosis
    from truenorm.lab.report.page import needed

    if html is not None:
        needed()  # said now, not after minutes of looking
    network, weights = open_network(model, checkpoint, key=key, trust=trust_checkpoint, device=device)
    with unchanged(weights, score, forward):
        functions = open_functions(score=score, forward=forward)
    batches = None
    if data is not None:
        with unchanged(weights, data):
            batches = open_batches(data, "test", root=data_root, batch_size=batch_size, image_size=image_size)
        if forward is None:
            with unchanged(weights, model, data):
                try_batch(network, batches)
    code = (model, data, score, forward)
    with looking(network) as started, users_code("looking at the network"), unchanged(weights, *code):
        diagnosis = diagnosed(network, batches, limit=limit, started=started, **functions)
    named: dict[str, object] = {"--model": model, "--checkpoint": checkpoint or "CHECKPOINT", "--key": key}
    named |= {"--data-root": data_root, "--image-size": image_size, "--score": score, "--forward": forward}
    named |= {"--device": device if device != "cpu" else None}
    line = [str(part) for name, value in named.items() if value is not None for part in (name, value)]
    if data is not None and ":" not in data and batch_size != 64:  # joint statistics depend on it
        line += ["--batch-size", str(batch_size)]
    line += ["--trust-checkpoint"] if trust_checkpoint else []
    advice = _advice(
        line,
        repaired_from="TRAINING_DATA" if data is None or ":" in data else data,
        diagnosed_on=data or "HELD_OUT_DATA",
        out=_mended(checkpoint),
    )
    record = diagnosis.record(command=shlex.join(["truenorm", *sys.argv[1:]]), advice=advice)
    record = replace(record, configuration={"model": model, "data": data})
    if json is not None:
        write_whole(json, record.dumps().encode())
    lines = diagnosis.lines(advice)
    if html is not None:
        write_whole(html, diagnosis_page(read_diagnosis(record)).encode())
    output = console()
    if weights is not None and weights.lacks:
        output.print(f"{checkpoint} holds no running statistics: eval() divides by the initial mean 0 and variance 1")
    output.print(replace(diagnosis, steps=()))
    # A line to run is one line, however narrow the terminal is.
    margin = max(len(heading) for heading, _ in lines) + 2
    for step in diagnosis.steps:
        output.print(f"{step.when:{margin}}{advice(step.remedy)}", markup=False, soft_wrap=True)
    if not diagnosis.healthy:
        sys.exit(3)


def _advice(options: list[str], *, repaired_from: str, diagnosed_on: str, out: str) -> "Callable[[Remedy], str]":
    """Advice with commands of the shell in place of Python."""
    from truenorm.doctor import words
    from truenorm.doctor.remedy import DiagnoseAgain, RepairStatistics

    def command(name: str, needs_score: bool, *ends: str) -> str:
        score = ["--score", "FILE.py:FUNCTION"] if needs_score and "--score" not in options else []
        return shlex.join(["truenorm", name, *options, *score, *ends])

    def advice(remedy: "Remedy") -> str:
        match remedy:
            case DiagnoseAgain(needs_score=needs_score, samples=samples):
                more = [] if samples is None else ["--limit", str(2 * samples)]
                return command("diagnose", needs_score, "--data", diagnosed_on, *more)
            case RepairStatistics(needs_score=needs_score):
                return command("repair", needs_score, "--data", repaired_from, "--out", out)
            case _:
                return words.advice(remedy)

    return advice


def _mended(checkpoint: Path | None) -> str:
    if checkpoint is None:
        return "mended.safetensors"
    ending = "".join(checkpoint.suffixes[-2:]) if checkpoint.suffix == ".tar" else checkpoint.suffix
    return str(checkpoint.with_name(f"{checkpoint.name.removesuffix(ending)}-mended{ending}"))
