"""Whoever gets the notice, all processes stop at the same point. Here each is a thread."""

import random
import threading
import time
from concurrent import futures

import pytest

from mt0_tpu import stop_notice, stop_signals
from mt0_tpu.exit_codes import INTERRUPTED, REQUEUE
from mt0_tpu.stop_notice import PointReached, StopNotice
from tests.peer_pairs import closing, watches


@pytest.fixture(autouse=True)
def all_closed():
    with closing():
        yield


def job(count):
    """A notice for each process, listening to the others, but not to this machine's signals."""
    notices = [StopNotice(watch, index == 0) for index, watch in enumerate(watches(count))]
    for notice in notices:
        notice._watch.listen(notice._told)
    return notices


def run(notices, lag):
    """Each passes points until it is to stop, sleeping up to `lag` seconds; returns how many.

    In step like a collective: no process is more than two points ahead of the slowest.
    """
    passed = [0] * len(notices)

    def one(index):
        rng = random.Random(index)
        while True:
            while passed[index] > min(passed) + 1:
                time.sleep(0.001)
            time.sleep(rng.random() * lag)
            passed[index] += 1
            if notices[index].reached():
                return passed[index]

    pool = futures.ThreadPoolExecutor(len(notices))
    return [pool.submit(one, index) for index in range(len(notices))]


@pytest.mark.parametrize("who", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_all_stop_at_the_same_point(who, seed):
    notices = job(3)
    running = run(notices, 0.003)
    time.sleep(random.Random(seed).random() * 0.2)
    notices[who].heard("SIGTERM")
    stopped = {one.result(timeout=60) for one in running}
    assert len(stopped) == 1
    assert {notice.code for notice in notices} == {REQUEUE}
    assert all("SIGTERM" in notice.why for notice in notices)


def test_notices_of_all_at_once_are_one_notice():
    """As SLURM and Kubernetes send them."""
    notices = job(4)
    running = run(notices, 0.003)
    time.sleep(0.1)
    for notice in notices:
        threading.Thread(target=notice.heard, args=("SIGUSR1",)).start()
    assert len({one.result(timeout=60) for one in running}) == 1


def test_one_that_listens_late_is_waited_for():
    notices = [StopNotice(watch, index == 0) for index, watch in enumerate(watches(2))]
    notices[0]._watch.listen(notices[0]._told)
    notices[0].heard("SIGTERM")
    time.sleep(0.2)
    with futures.ThreadPoolExecutor() as pool:
        first = pool.submit(notices[0].reached)
        time.sleep(0.2)
        assert not first.done()  # where to stop is not agreed yet
        notices[1]._watch.listen(notices[1]._told)
        assert first.result(timeout=60) and notices[1].reached()


def test_alone_it_stops_at_the_next_point():
    notice = StopNotice(None, True)
    assert not notice.reached()
    notice.check()
    notice.heard("SIGINT")
    with pytest.raises(PointReached):
        notice.check()
    assert notice.reached()
    assert (notice.why, notice.code) == ("SIGINT", INTERRUPTED)


@pytest.fixture
def ended(monkeypatch):
    codes = []
    monkeypatch.setattr(stop_signals, "end_now", codes.append)
    return codes


def test_a_second_signal_ends_it_at_once(ended, capfd):
    notice = StopNotice(None, True, last_saved=lambda: "the last checkpoint is step 12")
    notice.heard("SIGTERM")
    assert ended == []
    notice.heard("SIGTERM")
    assert ended == [REQUEUE]
    said = "stopped at once by a second notice, SIGTERM; the last checkpoint is step 12"
    assert said in capfd.readouterr().err


def test_grace_that_is_over_ends_it(ended, capfd):
    notice = StopNotice(None, True, 0.1, lambda: "the last checkpoint is step 12")
    notice.heard("SIGTERM")
    deadline = time.monotonic() + 20
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == [REQUEUE]
    said = "0.1 s after SIGTERM the save is not finished; the last checkpoint is step 12"
    assert said in capfd.readouterr().err


def test_a_save_within_the_grace_ends_nothing(ended):
    notice = StopNotice(None, True, 0.3)
    notice.heard("SIGTERM")
    notice.close()
    time.sleep(0.6)
    assert ended == []


def test_the_platform_s_news_is_a_notice(monkeypatch):
    monkeypatch.setattr(stop_notice, "_POLL_S", 0.01)
    news = iter([None, None, "host maintenance"])
    notice = StopNotice(None, True, news=lambda: next(news))
    thread = threading.Thread(target=notice._poll)
    thread.start()
    thread.join(timeout=60)
    assert notice.reached()
    assert (notice.why, notice.code) == ("host maintenance", REQUEUE)
