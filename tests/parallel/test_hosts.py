"""Multi-host coordination, tested within one process."""

import concurrent.futures
import contextlib
import socket
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts
from hyperseg_jax.parallel.feed import SINGLE_PROCESS, Feed, Rows
from hyperseg_jax.parallel.startup_barrier import startup_barrier
from hyperseg_jax.parallel.watchdog import Watchdog


def call_roll(processes, present, seconds=5.0):
    """Returns the result of a roll call for each process present: names, or the error."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def join(k):
        try:
            return startup_barrier(f"127.0.0.1:{port}", k, processes, name=f"host{k}", seconds=seconds)
        except UserError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(join, present))


def test_roll_call_returns_all_names():
    assert call_roll(4, [3, 1, 0, 2]) == [["host0", "host1", "host2", "host3"]] * 4


def test_missing_processes_are_reported_to_all():
    for messages in call_roll(4, [0, 2], seconds=1.0):
        assert messages.startswith("after 1 s, process 1, 3 of 4 did not reach the start; present: 0 (host0), 2 (host2)")


def test_without_process_0_each_process_reports_it():
    (messages,) = call_roll(2, [1], seconds=0.5)
    assert "process 0 of 2 did not reach the start" in messages


@pytest.mark.parametrize(
    "message",
    [b"[" * 60_000, b'{"id": Infinity, "name": ""}\n', b'{"id": [], "name": 1}\n', b'{"id": 9}\n', b"3\n", b"\xff\n", b""],
)
def test_other_clients_are_ignored(message):
    def send(port):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                return client.sendall(message)
            time.sleep(0.02)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(startup_barrier, f"127.0.0.1:{port}", 0, 2, name="a", seconds=20)
        send(port)
        time.sleep(0.1)
        assert startup_barrier(f"127.0.0.1:{port}", 1, 2, name="b\x1b", seconds=20) == ["a", "b\\x1b"] == first.result()


def test_a_slow_client_does_not_extend_the_timeout():
    def drip(port, stop):
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                while not stop.wait(0.1):
                    client.sendall(b" ")

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stop, began = threading.Event(), time.monotonic()
    thread = threading.Thread(target=drip, args=(port, stop))
    thread.start()
    threading.Timer(8, stop.set).start()
    with pytest.raises(UserError, match="after 1 s, process 1 of 2 did not reach the start"):
        startup_barrier(f"127.0.0.1:{port}", 0, 2, name="a", seconds=1)
    assert time.monotonic() - began < 3
    stop.set()
    thread.join()


def test_invalid_flags_are_one_line(monkeypatch):
    timeouts = hosts.Timeouts(start=1)
    with pytest.raises(UserError, match="--process-id 4 of --processes 4"):
        hosts.connect(timeouts, coordinator="localhost:1", process_id=4, processes=4)
    with pytest.raises(UserError, match="give all of --coordinator HOST:PORT, --process-id and --processes"):
        hosts.connect(timeouts, process_id=1)
    with pytest.raises(UserError, match="--coordinator localhost: give HOST:PORT"):
        hosts.connect(timeouts, coordinator="localhost", process_id=0, processes=2)
    with pytest.raises(UserError, match="--coordinator localhost:\u00b2: give HOST:PORT"):
        hosts.connect(timeouts, coordinator="localhost:\u00b2", process_id=0, processes=2)
    with pytest.raises(UserError, match="--processes 70000: give at most 65536"):
        hosts.connect(timeouts, coordinator="localhost:1", process_id=0, processes=70000)
    for text in ("two", "²", "9" * 10):
        monkeypatch.setenv("HYPERSEG_PROCESSES", text)
        with pytest.raises(UserError, match=f"HYPERSEG_PROCESSES={text}: give a whole number"):
            hosts.connect(timeouts)
    with pytest.raises(UserError, match=r"hosts\.start = 0"):
        hosts.Timeouts(start=0)


def test_process_ids_from_a_cluster(monkeypatch):
    """The third of four Slurm processes; explicit flags take precedence."""
    slurm = {
        "SLURM_JOB_ID": "4096",
        "SLURM_STEP_NODELIST": "node[07-10]",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    messages, started = [], []
    monkeypatch.setattr(hosts, "startup_barrier", lambda *args, **_: messages.append(args) or ["a", "b", "c", "d"])
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **timeouts: started.append((args, timeouts)))
    monkeypatch.setattr(hosts, "_group", hosts._ProcessGroup())
    hosts.connect(hosts.Timeouts(start=7, heartbeat=8, barrier=9))
    assert messages == [("node07:61440", 2, 4)] and hosts.process_name(2) == "2 (c)"
    timeouts = {"initialization_timeout": 7, "heartbeat_timeout_seconds": 8, "shutdown_timeout_seconds": 9}
    assert started == [(("node07:61440", 4, 2), timeouts)]
    hosts.connect(hosts.Timeouts(), coordinator="here:1", process_id=3)
    assert messages[1] == ("here:1", 3, 4)
    hosts.connect(hosts.Timeouts(), processes=1)
    assert len(messages) == 2


def test_a_single_process():
    hosts.connect(hosts.Timeouts(), processes=1)
    assert hosts.is_primary() and hosts.exchange("a word", "x") == ["x"] and hosts.combine_failures("a failure", "no") == "no"
    with pytest.raises(RuntimeError, match="as it was"), hosts.exit_on_error():
        raise RuntimeError("as it was")


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


def test_rows_are_put_and_gathered(mesh):
    feed = Feed(NamedSharding(mesh, P("data")))
    every = Rows(8, tuple(range(8)), (True,) * 8)
    assert feed.divisible_size(5) == 8 and feed.divisible_size(8) == 8 and feed.rows(8) == every
    batch = {"x": np.arange(24).reshape(8, 3)}
    placed = feed.put(batch, every)["x"]
    np.testing.assert_array_equal(placed, batch["x"])
    np.testing.assert_array_equal(feed.local_rows(placed), batch["x"])
    with pytest.raises(UserError, match=r"train\.batch_size = 6: give a multiple of 4"):
        feed.rows(6)
    assert (
        SINGLE_PROCESS.divisible_size(5) == 5 and SINGLE_PROCESS.rows(8) == every and SINGLE_PROCESS.put(batch, every) is batch
    )


class Devices:
    """A fake sharding of rows over devices of several processes."""

    def __init__(self, *spans):
        self.spans = spans  # (process, start, stop) of each device

    num_devices = property(lambda self: len(self.spans))

    def shard_shape(self, shape):
        return shape

    def devices_indices_map(self, shape):
        device = lambda k, process: type("Device", (), {"process_index": process, "id": k})()
        return {device(k, process): (slice(start, stop),) for k, (process, start, stop) in enumerate(self.spans)}


def test_rows_of_each_process(monkeypatch):
    monkeypatch.setattr(hosts, "jax", jax)
    two = Feed(Devices((0, 0, 2), (0, 2, 4), (1, 4, 6), (1, 6, 8)))
    shared = Feed(Devices((0, 0, 4), (1, 0, 4), (2, 4, 8), (3, 4, 8)))  # tensor parallel over two hosts
    ring = Feed(Devices((0, 0, 2), (1, 2, 4), (1, 4, 6), (0, 6, 8)))  # chips along the links of a slice
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        rows = (0, 1, 2, 3) if process < 2 else (4, 5, 6, 7)
        assert shared.rows(8) == Rows(8, rows, (process in (0, 2),) * 4)
        if process < 2:
            assert two.rows(8) == Rows(8, ((0, 1, 2, 3), (4, 5, 6, 7))[process], (True,) * 4)
            assert ring.rows(8) == Rows(8, ((0, 1, 6, 7), (2, 3, 4, 5))[process], (True,) * 4)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(UserError, match="no device in the mesh"):
        Feed(Devices((1, 0, 8))).rows(8)


def test_hangs_are_reported_once_with_all_stacks(tmp_path, capfd):
    file = tmp_path / "logs" / "stacks-0.txt"
    file.parent.mkdir()

    def hang_here():
        time.sleep(1.2)

    with Watchdog(0.4, file) as watchdog:
        time.sleep(0.6)
        assert not file.exists()  # nothing has started
        watchdog.beat()
        watchdog.pause()
        time.sleep(0.6)
        assert not file.exists()
        watchdog.beat()
        thread = threading.Thread(target=hang_here)
        thread.start()
        thread.join()
    output = capfd.readouterr().err
    assert output.count("nothing has finished for 0.4 s") == 1
    assert "hang_here" in output and "hang_here" in file.read_text()
