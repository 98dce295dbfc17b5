"""What processes of the tests do: a module of its own, which they can import."""

import os
import signal
import threading

from truenorm.lab.jobs.processes import alongside


def say_and_wait(*ends):
    for end in ends:
        end.send("here")
    threading.Event().wait()


def raises():
    raise RuntimeError("a helper fails")


def is_killed(ends, heard):
    """The first process: it waits for its helper, and is gone without a word."""
    with alongside(1, say_and_wait, *ends):
        heard.recv()
        os.kill(os.getpid(), signal.SIGKILL)
