"""Training steps of ResNet-50: time, memory and loss, with torch's batch norms and with ours."""

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from on_gpu.peers import allow_recompiles
from on_gpu.record import Deadline, Record, first_line
from on_gpu.resnet import Norms, ResNet50, kernels, torchs, truenorms
from on_gpu.shapes import BATCH, network_floor_bytes
from on_gpu.split import kernels_of, part
from truenorm.kernels import BACKENDS, Backend

WARM_UP, ROUNDS, PER_ROUND = 5, 5, 4
STEPS = 20
"""Of which losses are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How large: the rehearsal is small."""

    device: str
    batch: int
    side: int = 224
    classes: int = 1000

    @classmethod
    def of(cls, device: str) -> "Setting":
        if device == "cpu":
            return cls(device=device, batch=2, side=32, classes=10)
        memory = torch.cuda.get_device_properties(0).total_memory
        return cls(device=device, batch=BATCH if memory > 60e9 else BATCH // 2)


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to train: which batch norms, compiled or not, which layout."""

    name: str
    norms: Callable[[], Norms]
    compiled: bool = False
    layout: str = "NHWC"


def modes(backend: Backend | None) -> list[Mode]:
    """What is compared, in the order in which it matters.

    In a compiled graph our layers are torch's operations by design; `compile + kernels` calls the kernels there.
    """
    found = [Mode("eager", torchs), Mode("eager + ours", truenorms), Mode("compile", torchs, compiled=True)]
    if backend is not None and backend is not BACKENDS["aten"]:  # torch's stand in for ours in a rehearsal
        found.append(Mode("compile + kernels", lambda: kernels(backend), compiled=True))
    return [*found, Mode("compile + ours", truenorms, compiled=True)]


def modes_nchw() -> list[Mode]:
    return [Mode("eager, NCHW", torchs, layout="NCHW"), Mode("eager + ours, NCHW", truenorms, layout="NCHW")]


class Training:
    """A network, its optimizer and the images it is shown in turn."""

    def __init__(self, mode: Mode, setting: Setting, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        network = ResNet50(mode.norms(), setting.classes)
        self.memory = torch.channels_last if mode.layout == "NHWC" else torch.contiguous_format
        self.network: nn.Module = network.to(setting.device, memory_format=self.memory).train()
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.02, momentum=0.9, weight_decay=1e-4)
        if mode.compiled:
            allow_recompiles()
            # A rehearsal tries what dynamo makes of the layers; inductor would take minutes.
            backend = "inductor" if setting.device == "cuda" else "eager"
            self.network = torch.compile(self.network, dynamic=False, backend=backend)
        self.setting = setting
        self.taken = 0
        self.losses: list[Tensor] = []

    def step(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        """One step; the loss stays on the device, so that nothing waits for it."""
        images, labels = batches[self.taken % len(batches)]
        images = images.contiguous(memory_format=self.memory)
        self.optimizer.zero_grad()
        with torch.autocast(self.setting.device, torch.bfloat16):
            loss = F.cross_entropy(self.network(images), labels)
        loss.backward()
        self.optimizer.step()
        self.taken += 1
        self.losses.append(loss.detach())

    def first_losses(self) -> list[float]:
        return [loss.item() for loss in self.losses[:STEPS]]


def images(setting: Setting, *, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Four batches of noise with labels."""
    generator = torch.Generator(setting.device).manual_seed(seed)

    def batch() -> tuple[Tensor, Tensor]:
        shape = (setting.batch, 3, setting.side, setting.side)
        seen = torch.randn(shape, generator=generator, device=setting.device)
        labels = torch.randint(0, setting.classes, shape[:1], generator=generator, device=setting.device)
        return seen.contiguous(memory_format=torch.channels_last), labels

    return [batch() for _ in range(4)]


def prepare(name: str, backend: Backend | None, device: str) -> None:
    """One step of a mode, for what is compiled on the way to stay on disk."""
    mode = next(mode for mode in modes(backend) if mode.name == name)
    setting = Setting.of(device)
    Training(mode, setting).step(images(setting))


def measure(backend: Backend | None, device: str, record: Record, deadline: Deadline) -> None:
    """All modes, each warmed up alone, then in rounds in turn; what cannot be run is a row with its error.

    The eager ones first by themselves: a compiler that takes too long, or ends the process, does not
    take their rows with it. A mode that ended an earlier process is left out.
    """
    setting = Setting.of(device)
    batches = images(setting)
    fatal = _fatal(record)
    running: dict[str, Training] = {}

    def start(mode: Mode, seconds: float) -> None:
        if mode.name == fatal:
            _failed(record, mode.name, RuntimeError("it ended an earlier process"))
            return
        try:
            _need(deadline, seconds)
            record.add({"kind": "begin", "case": _CASE + mode.name, "worker": "endtoend 0"})
            training = Training(mode, setting)
            for _ in range(WARM_UP):
                training.step(batches)
            _wait(device)
            running[mode.name] = training
        except Exception as error:  # a mode that fails is a row, and the others go on
            _failed(record, mode.name, error)

    def parts(*names: str) -> None:
        for name in names:
            if name in running and device == "cuda":
                _parts(name, running[name], batches, record, deadline)

    eager = [mode for mode in modes(backend) if not mode.compiled]
    for mode in eager:
        start(mode, 10)
    _timed(running, batches, setting, record, deadline)
    parts("eager", "eager + ours")
    _losses(setting, record, deadline)
    for mode in modes(backend):
        if mode.compiled:
            start(mode, 20)
    if len(running) > len(eager):
        _timed(running, batches, setting, record, deadline)
        parts("compile", "compile + kernels")
    running.clear()
    for mode in modes_nchw():
        start(mode, 10)
    _timed(running, batches, setting, record, deadline)


_CASE = "endtoend "


def _fatal(record: Record) -> str | None:
    """The mode that an earlier process of this kind began last: it ended there."""
    begun = [case for case in record.begun() if case.startswith(_CASE)]
    return begun[-1].removeprefix(_CASE) if begun else None


def _timed(
    running: dict[str, Training], batches: list[tuple[Tensor, Tensor]], setting: Setting, record: Record, end: Deadline
) -> None:
    times: dict[str, list[float]] = {name: [] for name in running}
    peaks: dict[str, int] = {}
    names = list(running)
    for turn in range(ROUNDS):
        for name in names[turn % max(1, len(names)) :] + names[: turn % max(1, len(names))]:
            if name not in times or (turn and end.left() < 5):
                continue
            try:
                with _peak(setting.device, peaks, name):
                    times[name] += _milliseconds(lambda t=running[name]: t.step(batches), setting.device)
            except Exception as error:  # a mode that fails is a row, and the others go on
                times.pop(name)
                _failed(record, name, error)
    for name, taken in times.items():
        if len(taken) < 2:
            continue
        low, middle, high = statistics.quantiles(taken, n=10)[0], statistics.median(taken), max(taken)
        record.add(
            {
                "kind": "endtoend",
                "impl": name,
                "batch": setting.batch,
                "ms_p50": middle,
                "ms_p10": low,
                "ms_max": high,
                "steps": len(taken),
                "images_per_second": 1000 * setting.batch / middle,
                "peak_bytes": peaks.get(name),
                "losses": running[name].first_losses(),
                "ok": True,
            }
        )


class _peak:
    """The most that is allocated at once above what stands before: what other networks hold is not counted."""

    def __init__(self, device: str, peaks: dict[str, int], name: str) -> None:
        self.device, self.peaks, self.name = device, peaks, name

    def __enter__(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()

    def __exit__(self, *_: object) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            above = torch.cuda.max_memory_allocated() - self.before
            self.peaks[self.name] = max(above, self.peaks.get(self.name, 0))


def _milliseconds(step: Callable[[], None], device: str) -> list[float]:
    if device != "cuda":
        step()
        return [1.0] * PER_ROUND
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(PER_ROUND + 1)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(marks)]


def _parts(
    name: str, training: Training, batches: list[tuple[Tensor, Tensor]], record: Record, deadline: Deadline
) -> None:
    """Where a step's time goes, by what kernels are called."""
    row = {"kind": "parts", "impl": name, "floor_bytes": _floor(training.setting)}
    try:
        _need(deadline, 8)
        events = kernels_of(lambda: training.step(batches))
        parts: Counter[str] = Counter()
        for kernel, taken in events:
            parts[part(kernel)] += taken
        longest = Counter[str]()
        for kernel, taken in events:
            longest[kernel[:120]] += taken
        record.add(row | {"us": dict(parts), "kernels": dict(longest.most_common(25)), "ok": True})
    except Exception as error:  # a mode that fails is a row, and the others go on
        record.add(row | {"ok": False, "error": first_line(error)})


def _floor(setting: Setting) -> int:
    return network_floor_bytes("bf16", "forward+backward", setting.batch)


def _losses(setting: Setting, record: Record, deadline: Deadline) -> None:
    """Eager again from the same weights, and from two others: how far losses are apart for no reason of ours."""
    for name, seed in (("eager again", 0), ("eager, seed 1", 1), ("eager, seed 2", 2)):
        try:
            _need(deadline, 8)
            training = Training(Mode("eager", torchs), setting, seed=seed)
            batches = images(setting, seed=seed)
            for _ in range(STEPS):
                training.step(batches)
            record.add({"kind": "losses", "impl": name, "losses": training.first_losses(), "ok": True})
        except Exception as error:  # a mode that fails is a row, and the others go on
            record.add({"kind": "losses", "impl": name, "ok": False, "error": first_line(error)})


def _failed(record: Record, name: str, error: Exception) -> None:
    record.add({"kind": "endtoend", "impl": name, "ok": False, "error": first_line(error)})


def _need(deadline: Deadline, seconds: float) -> None:
    if deadline.left() < seconds:
        raise TimeoutError(f"skipped: {max(0, deadline.left()):.0f} s were left")


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
