"""Processes that do the same work: they end with the first one, however it ends."""

import multiprocessing
import signal
import threading

import pytest
from inline_snapshot import snapshot
from unit.lab.jobs.at_work import is_killed, raises, say_and_wait

from truenorm.lab.jobs.processes import alongside

pytestmark = pytest.mark.slow  # processes that train

SPAWN = multiprocessing.get_context("spawn")


def ended(receiving):
    """Whether nobody is left who could send: waits until it is so."""
    with pytest.raises(EOFError):
        receiving.recv()
    return True


def test_a_helper_ends_when_the_first_process_is_killed():
    receiving, sending = SPAWN.Pipe(duplex=False)
    heard, hears = SPAWN.Pipe(duplex=False)
    first = SPAWN.Process(target=is_killed, args=((sending, hears), heard))
    first.start()
    sending.close()
    assert receiving.recv() == "here"
    first.join()
    assert first.exitcode == -signal.SIGKILL
    assert ended(receiving)


def test_a_helper_ends_when_the_work_is_broken_off():
    others = set(multiprocessing.active_children())
    receiving, sending = SPAWN.Pipe(duplex=False)

    def broken_off():
        with alongside(1, say_and_wait, sending):
            sending.close()
            assert receiving.recv() == "here"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert ended(receiving)
    assert set(multiprocessing.active_children()) <= others


def test_a_helper_that_fails_leaves_the_work_to_the_first(capfd):
    with alongside(1, raises):
        done = True
    assert done
    assert capfd.readouterr().err.splitlines()[-1] == snapshot("RuntimeError: a helper fails")


def test_ctrl_c_is_answered_as_before():
    before = signal.getsignal(signal.SIGINT)
    with alongside(0, raises):
        assert signal.getsignal(signal.SIGINT) is before


def test_of_another_thread_too():
    failed = []

    def work():
        try:
            with alongside(1, print):
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []
