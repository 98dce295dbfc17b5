"""Times of several implementations of one thing, in turn, so that a clock that drifts drifts for all of them."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from on_gpu.record import first_line

Call = Callable[[int], object]
"""Runs once on the i-th set of buffers, and returns what must stay apart from the next runs' results."""

COLD_BYTES = 200_000_000
"""Buffers in rotation come to more than this, several times what the second-level cache holds."""

_WINDOW_US = 4000.0
_ITERATIONS = 20
_ROUNDS = 15


class DeviceLost(RuntimeError):
    """After an illegal access nothing works on the device for the rest of the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Microseconds of one call: median and deciles of the samples."""

    p50: float
    p10: float
    p90: float
    captured: bool


class Sampler(Protocol):
    """One implementation, ready to be timed."""

    captured: bool

    def sample(self) -> Callable[[], float]:
        """Run once; what is returned gives the microseconds of a call once everything has run."""
        ...


class Stopwatch(Protocol):
    """How a device is timed."""

    def prepare(self, call: Call, sets: int) -> Sampler: ...

    def wait(self) -> None: ...


def compare(calls: Mapping[str, Call], *, sets: int, stopwatch: Stopwatch) -> dict[str, Timing | str]:
    """Time each call; the error's first line instead of a time where one could not be run.

    Args:
        calls: by the name of the implementation.
        sets: how many sets of buffers there are; calls get numbers below.
        stopwatch: for the device.

    Raises:
        DeviceLost: nothing more can be measured in this process.
    """
    found: dict[str, Timing | str] = {}
    samplers: dict[str, Sampler] = {}
    for name, call in calls.items():
        try:
            samplers[name] = stopwatch.prepare(call, sets)
        except Exception as error:  # an implementation that fails is no time, and the others are timed
            found[name] = first_line(error)  # not the error, whose frames hold tensors
            check_device(stopwatch, error)
    samples: dict[str, list[Callable[[], float]]] = {name: [] for name in samplers}
    names = list(samplers)
    for turn in range(_ROUNDS if names else 0):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(samplers[name].sample())
    stopwatch.wait()
    for name, sampler in samplers.items():
        found[name] = summarised([read() for read in samples[name]], captured=sampler.captured)
    return found


def check_device(stopwatch: Stopwatch, error: Exception) -> None:
    """An error that is the device's stays: then there is no use in going on."""
    try:
        stopwatch.wait()
    except Exception as lost:  # an implementation that fails is no time, and the others are timed
        raise DeviceLost(str(error)) from lost


def summarised(samples: Sequence[float], *, captured: bool) -> Timing:
    """Median and deciles.

    Example:
        >>> summarised([1.0, 2.0, 3.0], captured=True).p50
        2.0
    """
    if len(samples) == 1:
        samples = [samples[0]] * 2
    deciles = statistics.quantiles(samples, n=10, method="inclusive")
    return Timing(p50=statistics.median(samples), p10=deciles[0], p90=deciles[-1], captured=captured)


class CudaStopwatch:
    """Replays of a CUDA graph of several calls between two events; events round a loop where capture fails."""

    def prepare(self, call: Call, sets: int) -> Sampler:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # a capture wants everything to have run once on another stream
            for i in range(2):
                call(i % sets)
            taken = _events(lambda: [call(i % sets) for i in range(3)])
            side.synchronize()
            estimate = taken() / 3
        torch.cuda.current_stream().wait_stream(side)
        wanted = min(_ITERATIONS, _WINDOW_US / max(estimate, 1.0))
        iterations = sets * max(1, round(wanted / sets))
        try:
            return _Graph(call, sets, iterations)
        except Exception as error:  # an implementation that fails is no time, and the others are timed
            check_device(self, error)
        return _Loop(call, sets, iterations)

    def wait(self) -> None:
        torch.cuda.synchronize()


class _Graph:
    captured = True

    def __init__(self, call: Call, sets: int, iterations: int) -> None:
        self.iterations = iterations
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            # Results of several calls lie side by side: small ones that are written to one place again and again
            # would never leave the cache. (With one alive, two places take turns.)
            alive: deque[object] = deque(maxlen=max(1, sets - 2))
            for i in range(iterations):
                alive.append(call(i % sets))
        self.graph.replay()
        torch.cuda.synchronize()

    def sample(self) -> Callable[[], float]:
        taken = _events(self.graph.replay)
        return lambda: taken() / self.iterations


class _Loop:
    captured = False

    def __init__(self, call: Call, sets: int, iterations: int) -> None:
        self.call, self.sets, self.iterations = call, sets, iterations

    def sample(self) -> Callable[[], float]:
        alive: deque[object] = deque(maxlen=max(1, self.sets - 2))

        def run() -> None:
            for i in range(self.iterations):
                alive.append(self.call(i % self.sets))

        taken = _events(run)
        return lambda: taken() / self.iterations


def _events(run: Callable[[], object]) -> Callable[[], float]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    return lambda: 1000 * start.elapsed_time(end)


class WallStopwatch:
    """Wall-clock time, for a rehearsal without a GPU."""

    def prepare(self, call: Call, sets: int) -> Sampler:
        call(0)
        return _Wall(call)

    def wait(self) -> None:
        pass


class _Wall:
    captured = False

    def __init__(self, call: Call) -> None:
        self.call = call

    def sample(self) -> Callable[[], float]:
        start = time.perf_counter()
        self.call(0)
        taken = 1e6 * (time.perf_counter() - start)
        return lambda: taken
