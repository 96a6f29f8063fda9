"""The stream is a pure function of one integer: exact ratios, one task a batch, the same on any number of hosts."""

import collections
import dataclasses
import multiprocessing
import os
import pathlib
import signal

import numpy as np
import pytest

from hyperseg_jax.data.mixture import Mixture, cycle
from hyperseg_jax.data.pipeline import Stream


@dataclasses.dataclass
class Counting:
    train: list
    ratio: int

    def prepare(self, example, rng):
        return {"record": np.int64(example), "noise": rng.random()}


def tasks():
    return {"a": Counting(list(range(100, 107)), 3), "b": Counting(list(range(200, 205)), 1)}


def test_cycle_holds_the_ratios_and_spreads_them():
    assert collections.Counter(cycle({"a": 3, "b": 1})) == {"a": 3, "b": 1}
    assert "".join(cycle({"a": 2, "b": 2})) in ("abab", "baba")
    with pytest.raises(ValueError, match="whole numbers"):
        cycle({"a": 0.5})


def test_a_batch_is_of_one_task_and_no_record_is_lost():
    mixture = Mixture(tasks(), batch_size=4, seed=3)
    seen = collections.Counter()
    for step in range(28):  # 21 batches of a are 12 epochs of its 7 records
        batch = [int(mixture[i]["record"]) for i in range(4 * step, 4 * step + 4)]
        assert len({record // 100 for record in batch}) == 1
        seen.update(batch)
    assert {seen[record] for record in range(100, 107)} == {12}


def test_one_task_may_come_first():
    mixture = Mixture(tasks(), batch_size=4, seed=3, first=("b", 5))
    names = [mixture.locate(4 * step)[0] for step in range(13)]
    assert names[:5] == ["b"] * 5 and collections.Counter(names[5:]) == {"a": 6, "b": 2}
    seen = collections.Counter(int(mixture[i]["record"]) for i in range(4 * (5 + 20)) if mixture.locate(i)[0] == "b")
    assert {seen[record] for record in range(200, 205)} == {8}  # 10 batches of b: no record is lost where the cycle begins


class Drawn(list):
    """A reader that draws."""

    def sample(self, record, rng):
        return self[record] + 1000 * int(rng.integers(1, 100))


def test_clips_are_drawn_anew_each_epoch_and_the_same_anywhere():
    mixture, again = (Mixture({"a": Counting(Drawn(range(5)), 1)}, batch_size=5, seed=3) for _ in range(2))
    seen = [int(mixture[i]["record"]) for i in range(20)]
    assert [int(again[i]["record"]) for i in reversed(range(20))] == seen[::-1]
    for epoch in range(4):
        assert sorted(value % 1000 for value in seen[5 * epoch : 5 * epoch + 5]) == list(range(5))
    assert min(seen) >= 1000 and len({value for value in seen if value % 1000 == 2}) > 2


def batches(count, *, start=0, rows=None, workers=0):
    with Stream(Mixture(tasks(), 4, seed=3), 4, position=4 * start, rows=rows, workers=workers) as stream:
        found = [next(stream) for _ in range(count)]
        assert stream.position == 4 * (start + count)
    return found


def same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_resumes_at_any_position():
    same(batches(9)[5:], batches(4, start=5))


@pytest.mark.parametrize("hosts", [[(0, 1), (2, 3)], [(0,), (1,), (2,), (3,)], [(0, 3), (1, 2)], [(0, 1, 2), (2, 3)]])
def test_each_host_feeds_its_rows_of_the_batch_of_one_host(hosts):
    whole = batches(9)[3:]
    for rows in hosts:
        same(batches(6, start=3, rows=rows), [{name: leaf[list(rows)] for name, leaf in step.items()} for step in whole])


def test_workers_change_nothing_and_outlive_ctrl_c(monkeypatch):
    """Workers get the terminal's Ctrl-C as well; the batch under way still arrives, and they end with the stream."""
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2])  # where workers find this module
    with Stream(Mixture(tasks(), 4, seed=3), 4, rows=(2, 3), workers=2) as stream:
        found = [next(stream)]
        workers = multiprocessing.active_children()
        for worker in workers:
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)
        found += [next(stream) for _ in range(40)]
    same(found, batches(41, rows=(2, 3)))
    assert len(workers) == 2 and not any(worker.is_alive() for worker in workers)
