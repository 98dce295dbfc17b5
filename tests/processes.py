"""Two processes with gloo on this machine, kept for all tests that need them: each start costs seconds."""

import io
import multiprocessing
import os
import traceback
from datetime import timedelta
from pathlib import Path

import torch

SIZE = 2
_LIMIT = timedelta(seconds=60)


class Pair:
    """Two running processes that compute functions of their rank; functions lie in modules that both can import.

    Args:
        folder: where the two meet.
    """

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for rank in range(SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, f"{folder}/meet", theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function, *arguments):
        """What `function(rank, *arguments)` gives in each process, made of tensors, numbers, strings and containers."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(2 * _LIMIT.total_seconds()):
                self.close()  # a late answer must not be taken for that of the next call
                raise TimeoutError(f"rank {rank} gave no answer")
            answers.append(pipe.recv())
        assert not any(error for error, _ in answers), "\n".join(error for error, _ in answers)
        return [torch.load(io.BytesIO(saved), weights_only=True) for _, saved in answers]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _serve(rank, meeting, pipe):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=SIZE, timeout=_LIMIT
    )
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:  # the tests have ended
            return
        try:
            saved = io.BytesIO()
            torch.save(function(rank, *arguments), saved)
            pipe.send(("", saved.getvalue()))
        except BaseException:
            pipe.send((f"rank {rank}:\n{traceback.format_exc()}", b""))
