"""The stream is a pure function of one integer: exact ratios, one task per batch, independent of the number of hosts."""

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

from hyperseg_jax.data.mixture import LazyGenerator, Mixture, task_cycle
from hyperseg_jax.data.pipeline import Stream
from hyperseg_jax.datasets import Folder, record_errors
from hyperseg_jax.errors import UserError


@dataclasses.dataclass
class CountingTask:
    train: list
    ratio: int

    def prepare(self, example, rng):
        return {"record": np.int64(example), "noise": rng.random()}

    def blank(self):
        return {"record": np.int64(-1), "noise": 0.0}


def make_tasks():
    return {"a": CountingTask(list(range(100, 107)), 3), "b": CountingTask(list(range(200, 205)), 1)}


def test_the_cycle_has_exact_ratios():
    assert collections.Counter(task_cycle({"a": 3, "b": 1})) == {"a": 3, "b": 1}
    assert "".join(task_cycle({"a": 2, "b": 2})) in ("abab", "baba")
    with pytest.raises(ValueError, match="whole numbers"):
        task_cycle({"a": 0.5})
    with pytest.raises(UserError, match="the ratios sum to 1000001; give smaller ones"):
        task_cycle({"a": 1_000_000, "b": 1})


def test_batches_have_one_task_and_no_record_is_lost():
    mixture = Mixture(make_tasks(), batch_size=4, seed=3)
    records = collections.Counter()
    for step in range(28):  # 21 batches of a are 12 epochs of its 7 records
        batch = [int(mixture[i]["record"]) for i in range(4 * step, 4 * step + 4)]
        assert len({record // 100 for record in batch}) == 1
        records.update(batch)
    assert {records[record] for record in range(100, 107)} == {12}


def test_one_task_may_come_first():
    mixture = Mixture(make_tasks(), batch_size=4, seed=3, first=("b", 5))
    names = [mixture.locate(4 * step)[0] for step in range(13)]
    assert names[:5] == ["b"] * 5 and collections.Counter(names[5:]) == {"a": 6, "b": 2}
    records = collections.Counter(int(mixture[i]["record"]) for i in range(4 * (5 + 20)) if mixture.locate(i)[0] == "b")
    assert {records[record] for record in range(200, 205)} == {
        8
    }  # 10 batches of b: no record is lost at the start of the cycle


def test_elements_of_a_mixed_batch_follow_the_ratios():
    mixture = Mixture(make_tasks(), batch_size=4, seed=3, batches="mixed")
    records = [int(mixture[i]["record"]) for i in range(4 * 35)]
    for start in range(0, len(records), 4):  # here a cycle has the length of a batch
        assert collections.Counter(record // 100 for record in records[start : start + 4]) == {1: 3, 2: 1}
    assert {records.count(record) for record in range(100, 107)} == {15} and mixture.program(3) == "mixed"
    three = Mixture(make_tasks(), batch_size=3, seed=3, batches="mixed")  # batches cross cycles: the records are the same
    assert [int(three[i]["record"]) for i in range(60)] == records[:60]
    late = Mixture(make_tasks(), batch_size=4, seed=3, first=("b", 5), batches="mixed")
    records = [int(late[i]["record"]) for i in range(4 * 20)]
    assert min(records[:20]) >= 200 and {records[:35:1].count(r) for r in range(200, 205)} <= {4, 5}
    named = collections.Counter(record for record in records if record >= 200)  # 20 and 15 elements: none lost at the boundary
    assert set(named.values()) == {7}
    with pytest.raises(UserError, match=r"data\.batches = 'both': use one of task, mixed"):
        Mixture(make_tasks(), 4, 0, batches="both")


class DamagedReader(list):
    """A reader with records that are damaged in different ways."""

    KINDS = (UserError("a.jpg: cannot be read; download it again"), KeyError("anns"), OSError(5, "Input/output error", "b.jpg"))

    def __getitem__(self, index):
        value = super().__getitem__(index)
        if value % 4 == 0:
            raise self.KINDS[value // 4 % 3]
        return value


def make_damaged():
    return {"a": CountingTask(DamagedReader(range(20)), 1)}


def read_stream(count, **options):
    with Stream(Mixture(make_damaged(), 4, seed=3), 4, **options) as stream:
        return [next(stream) for _ in range(count)], stream.read_errors


def test_damaged_records_are_blank_and_named_on_any_number_of_hosts():
    full, errors = read_stream(10)
    assert sum(int((batch["record"] < 0).sum()) for batch in full) == len(errors) == 10  # 5 of 20 records, two epochs
    assert all(full[at // 4]["record"][at % 4] == -1 for at, _ in errors)
    assert {why.split(": ", 1)[1] for _, why in errors} == {
        "a.jpg: cannot be read; download it again",
        "[Errno 5] Input/output error: 'b.jpg'",
        "is in an unexpected format (KeyError: 'anns'); correct or remove it",
    }
    parts = [read_stream(6, position=16, rows=rows) for rows in ((0, 3), (1, 2))]
    for (batches, _), rows in zip(parts, ((0, 3), (1, 2)), strict=True):
        assert_same_batches(batches, [{name: leaf[list(rows)] for name, leaf in batch.items()} for batch in full[4:]])
    assert sorted(parts[0][1] + parts[1][1]) == [(at, why) for at, why in errors if at >= 16]


def test_malformed_caption_lines_are_bad_records(tmp_path):
    class NamedTask(CountingTask):
        def prepare(self, example, rng):
            return {"record": np.int64(example.prompts[0].key), "noise": rng.random()}

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    line = json.dumps({"image": "a.png", "text": "x", "mask": None})
    (tmp_path / "captions.jsonl").write_text("\n".join([line, "{", line, line]))
    with Stream(Mixture({"a": NamedTask(Folder(tmp_path), 1)}, 4, seed=3), 4) as stream:
        assert sorted(next(stream)["record"]) == [-1, 0, 2, 3]
    ((_, why),) = stream.read_errors
    assert f"a record 1: {tmp_path / 'captions.jsonl'} line 2: is not valid JSON" in why


def test_error_messages_with_lone_surrogates():
    assert (
        record_errors.decode_message(record_errors.encode_message("caf\u00e9 \ud83d.jpg: no such image"))
        == "caf\u00e9 ?.jpg: no such image"
    )


class PanicException(BaseException):
    """The exception of Rust libraries."""


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), PanicException("called unwrap on None"), MemoryError(), RecursionError()]
)
def test_exceptions_of_records_are_reported(error):
    class BrokenTask(CountingTask):
        def prepare(self, example, rng):
            raise error

    with Stream(Mixture({"a": BrokenTask([1, 2], 1)}, 2, 0), 2) as stream:
        assert next(stream)["record"].tolist() == [-1, -1]
    for _, why in stream.read_errors:
        assert (
            f"is in an unexpected format ({type(error).__name__}: {error})" in why
            or "needs more memory than is available" in why
        )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_other_exceptions_end_the_stream(error):
    class BrokenTask(CountingTask):
        def prepare(self, example, rng):
            raise error

    with pytest.raises(type(error)):
        Mixture({"a": BrokenTask([1, 2], 1)}, 2, 0)[0]


class RandomReader(list):
    """A reader with random samples."""

    def sample(self, record, rng):
        return self[record] + 1000 * int(rng.integers(1, 100))


def test_samples_differ_by_epoch_and_are_reproducible():
    mixture, repeated = (Mixture({"a": CountingTask(RandomReader(range(5)), 1)}, batch_size=5, seed=3) for _ in range(2))
    records = [int(mixture[i]["record"]) for i in range(20)]
    assert [int(repeated[i]["record"]) for i in reversed(range(20))] == records[::-1]
    for epoch in range(4):
        assert sorted(value % 1000 for value in records[5 * epoch : 5 * epoch + 5]) == list(range(5))
    assert min(records) >= 1000 and len({value for value in records if value % 1000 == 2}) > 2


def read_batches(count, *, start=0, rows=None):
    with Stream(Mixture(make_tasks(), 4, seed=3), 4, position=4 * start, rows=rows) as stream:
        result = [next(stream) for _ in range(count)]
        assert stream.position == 4 * (start + count)
    return result


def assert_same_batches(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_resumes_at_any_position():
    assert_same_batches(read_batches(9)[5:], read_batches(4, start=5))


@pytest.mark.parametrize("hosts", [[(0, 1), (2, 3)], [(0,), (1,), (2,), (3,)], [(0, 3), (1, 2)], [(0, 1, 2), (2, 3)]])
def test_hosts_feed_their_rows_of_the_global_batch(hosts):
    full = read_batches(9)[3:]
    for rows in hosts:
        assert_same_batches(
            read_batches(6, start=3, rows=rows), [{name: leaf[list(rows)] for name, leaf in step.items()} for step in full]
        )


def test_workers_give_the_same_batches_and_survive_ctrl_c(monkeypatch):
    """Workers receive the terminal's Ctrl-C as well; the current batch still arrives, and they end with the stream. Errors of
    damaged records are reported too."""
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2])  # workers import this module from here
    with Stream(Mixture(make_damaged(), 4, seed=3), 4, rows=(2, 3), workers=2) as stream:
        result = [next(stream)]
        workers = multiprocessing.active_children()
        for worker in workers:
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)
        result += [next(stream) for _ in range(40)]
    expected, errors = read_stream(41, rows=(2, 3))
    assert_same_batches(result, expected)
    assert stream.read_errors == errors != []
    assert len(workers) == 2 and not any(worker.is_alive() for worker in workers)


def test_lazy_generators_equal_numpy_generators():
    lazy, plain = LazyGenerator(3, 5), np.random.default_rng((3, 5))
    assert lazy.random() == plain.random() and lazy.integers(100) == plain.integers(100)
    np.testing.assert_array_equal(lazy.permutation(9), plain.permutation(9))
