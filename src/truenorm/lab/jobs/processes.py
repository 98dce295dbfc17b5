"""Processes of this machine that work on the same jobs, and the threads of each."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch


@contextmanager
def alongside(num: int, work: Callable[..., object], *arguments: object) -> Generator[None]:
    """That many more processes do the same work during the block. The block itself does what they leave undone.

    Args:
        num: of processes.
        work: a function of a module, to be called in each with the arguments.
        arguments: anything that pickles.
    """
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=_work_until_parent_exits, args=(work, *arguments), daemon=True) for _ in range(num)]
    try:
        with _uninterrupted():  # they inherit it: the first process handles Ctrl-C, and ends them
            for other in others:
                other.start()
        yield
        for other in others:
            other.join()
    finally:
        for other in others:
            if other.is_alive():
                other.terminate()
                other.join()


@contextmanager
def _uninterrupted() -> Generator[None]:
    """Ignore Ctrl-C in the block, and in processes that start in it; only the main thread may change this."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _work_until_parent_exits(work: Callable[..., object], *arguments: object) -> None:
    """Run `work`; exit when the parent process exits."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    work(*arguments)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def torch_threads(num: int) -> Generator[None]:
    """Use that many threads in torch during the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
