"""How far a diagnosis is: a bar with the time left, by the samples that the network has been given."""

import contextlib
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from truenorm.cli.terminal import bars, console
from truenorm.data.batches import Batch
from truenorm.doctor.size import PASSES
from truenorm.model.layers import unwrap


@contextmanager
def looking(network: nn.Module) -> Generator[Callable[[int], None]]:
    """Show on standard error that a network is looked at: a bar in a terminal, a line elsewhere.

    Args:
        network: has a hook of its own while the bar is shown.

    Yields:
        what is to be called with the number of samples, once they are read.
    """
    output = console(stderr=True)
    with ExitStack() as shown:
        waiting = shown.enter_context(output.status("looking at the network"))

        def started(samples: int) -> None:
            what = f"looking at {samples:,} sample{'' if samples == 1 else 's'}"
            if not output.is_terminal:
                print(f"truenorm: {what}", file=sys.stderr)
                return
            waiting.stop()
            progress = shown.enter_context(bars(percent=True))
            total = PASSES * samples
            progress(what, 0, total)
            # A diagnosis that looks at more stays at the end of its bar.
            shown.enter_context(_counting(network, lambda seen: progress(what, min(seen, total), total)))

        yield started


@contextmanager
def _counting(network: nn.Module, count: Callable[[int], None]) -> Generator[None]:
    """Call `count` with the number of samples so far, each time that the network (or a copy of it) is run."""
    seen = 0

    def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal seen
        with contextlib.suppress(Exception):  # whatever a network is given: it is only counted
            seen += Batch.of(given[0] if given else named).size
            count(seen)

    try:
        # A plain function, which copies of the network share.
        handle = unwrap(network).register_forward_pre_hook(hook, with_kwargs=True)
    except Exception:  # a network that takes no hooks is looked at without a count
        yield
        return
    try:
        yield
    finally:
        handle.remove()
