"""The stream is a pure function of one integer: exact ratios, one task a batch, the same on any number of hosts."""

import collections
import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal

import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.data.mixture import LazyGenerator, Mixture, cycle
from hyperseg_jax.data.pipeline import Stream
from hyperseg_jax.datasets import Folder, record_errors
from hyperseg_jax.errors import UserError


@dataclasses.dataclass
class Counting:
    train: list
    ratio: int

    def prepare(self, example, rng):
        return {"record": np.int64(example), "noise": rng.random()}

    def blank(self):
        return {"record": np.int64(-1), "noise": 0.0}


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


def test_elements_of_a_mixed_batch_follow_the_ratios():
    mixture = Mixture(tasks(), batch_size=4, seed=3, batches="mixed")
    records = [int(mixture[i]["record"]) for i in range(4 * 35)]
    for start in range(0, len(records), 4):  # the cycle is as long as a batch here
        assert collections.Counter(record // 100 for record in records[start : start + 4]) == {1: 3, 2: 1}
    assert {records.count(record) for record in range(100, 107)} == {15} and mixture.program(3) == "mixed"
    three = Mixture(tasks(), batch_size=3, seed=3, batches="mixed")  # a batch cuts the cycle anywhere: the records are the same
    assert [int(three[i]["record"]) for i in range(60)] == records[:60]
    late = Mixture(tasks(), batch_size=4, seed=3, first=("b", 5), batches="mixed")
    seen = [int(late[i]["record"]) for i in range(4 * 20)]
    assert min(seen[:20]) >= 200 and {seen[:35:1].count(r) for r in range(200, 205)} <= {4, 5}
    named = collections.Counter(record for record in seen if record >= 200)  # 20 and 15 elements: none lost at the seam
    assert set(named.values()) == {7}
    with pytest.raises(UserError, match=r"data\.batches = 'both': use one of task, mixed"):
        Mixture(tasks(), 4, 0, batches="both")


class Damaged(list):
    """A reader some of whose records are damaged, each in its own way."""

    KINDS = (UserError("a.jpg: cannot be read; download it again"), KeyError("anns"), OSError(5, "Input/output error", "b.jpg"))

    def __getitem__(self, index):
        value = super().__getitem__(index)
        if value % 4 == 0:
            raise self.KINDS[value // 4 % 3]
        return value


def damaged():
    return {"a": Counting(Damaged(range(20)), 1)}


def streamed(count, **options):
    with Stream(Mixture(damaged(), 4, seed=3), 4, **options) as stream:
        return [next(stream) for _ in range(count)], stream.read_errors


def test_a_damaged_record_is_a_blank_with_a_name_on_any_number_of_hosts():
    whole, faults = streamed(10)
    assert sum(int((batch["record"] < 0).sum()) for batch in whole) == len(faults) == 10  # 5 of 20 records, two epochs
    assert all(whole[at // 4]["record"][at % 4] == -1 for at, _ in faults)
    assert {why.split(": ", 1)[1] for _, why in faults} == {
        "a.jpg: cannot be read; download it again",
        "[Errno 5] Input/output error: 'b.jpg'",
        "is in an unexpected format (KeyError: 'anns'); correct or remove it",
    }
    parts = [streamed(6, position=16, rows=rows) for rows in ((0, 3), (1, 2))]
    for (batches, _), rows in zip(parts, ((0, 3), (1, 2)), strict=True):
        same(batches, [{name: leaf[list(rows)] for name, leaf in batch.items()} for batch in whole[4:]])
    assert sorted(parts[0][1] + parts[1][1]) == [(at, why) for at, why in faults if at >= 16]


def test_a_malformed_line_of_captions_is_one_bad_record(tmp_path):
    class Named(Counting):
        def prepare(self, example, rng):
            return {"record": np.int64(example.prompts[0].key), "noise": rng.random()}

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    line = json.dumps({"image": "a.png", "text": "x", "mask": None})
    (tmp_path / "captions.jsonl").write_text("\n".join([line, "{", line, line]))
    with Stream(Mixture({"a": Named(Folder(tmp_path), 1)}, 4, seed=3), 4) as stream:
        assert sorted(next(stream)["record"]) == [-1, 0, 2, 3]
    ((_, why),) = stream.read_errors
    assert f"a record 1: {tmp_path / 'captions.jsonl'} line 2: not json" in why


def test_a_fault_may_name_half_a_character():
    assert (
        record_errors.decode_message(record_errors.encode_message("caf\u00e9 \ud83d.jpg: no such image"))
        == "caf\u00e9 ?.jpg: no such image"
    )


class PanicException(BaseException):
    """As libraries in Rust raise it."""


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), PanicException("called unwrap on None"), MemoryError(), RecursionError()]
)
def test_whatever_a_record_raises_is_told(error):
    class Broken(Counting):
        def prepare(self, example, rng):
            raise error

    with Stream(Mixture({"a": Broken([1, 2], 1)}, 2, 0), 2) as stream:
        assert next(stream)["record"].tolist() == [-1, -1]
    for _, why in stream.read_errors:
        assert (
            f"is in an unexpected format ({type(error).__name__}: {error})" in why
            or "needs more memory than is available" in why
        )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_is_no_fault_of_a_record_ends_the_stream(error):
    class Broken(Counting):
        def prepare(self, example, rng):
            raise error

    with pytest.raises(type(error)):
        Mixture({"a": Broken([1, 2], 1)}, 2, 0)[0]


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


def batches(count, *, start=0, rows=None):
    with Stream(Mixture(tasks(), 4, seed=3), 4, position=4 * start, rows=rows) as stream:
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
    """Workers get the terminal's Ctrl-C as well; the batch under way still arrives, and they end with the stream. What is
    wrong with damaged records arrives too."""
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2])  # where workers find this module
    with Stream(Mixture(damaged(), 4, seed=3), 4, rows=(2, 3), workers=2) as stream:
        found = [next(stream)]
        workers = multiprocessing.active_children()
        for worker in workers:
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)
        found += [next(stream) for _ in range(40)]
    expected, faults = streamed(41, rows=(2, 3))
    same(found, expected)
    assert stream.read_errors == faults != []
    assert len(workers) == 2 and not any(worker.is_alive() for worker in workers)


def test_draws_are_those_of_the_generator_of_their_key():
    lazy, plain = LazyGenerator(3, 5), np.random.default_rng((3, 5))
    assert lazy.random() == plain.random() and lazy.integers(100) == plain.integers(100)
    np.testing.assert_array_equal(lazy.permutation(9), plain.permutation(9))
