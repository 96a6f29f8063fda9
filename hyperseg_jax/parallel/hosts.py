"""Multi-host runs: joining, exchanging texts and failing in bounded time. All functions also work in a single process."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import re
import signal
import socket
import sys
import time
import traceback
import zlib
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import orbax.checkpoint  # noqa: F401  it defines the flag below
from absl import flags
from jax._src import clusters, distributed  # JAX has no public API for its coordination service
from jax.experimental import multihost_utils

from hyperseg_jax import failures
from hyperseg_jax.errors import HostLost, UserError
from hyperseg_jax.parallel.failure_watch import FailureWatch
from hyperseg_jax.parallel.startup_barrier import startup_barrier
from hyperseg_jax.untrusted.printing import escaped, first_line, message

CHUNK = 2**20
"""Maximum length of a text in one message of the coordination service, in characters."""
MOST_PROCESSES = 2**16
"""Maximum number of processes of a run."""


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Timeouts in seconds. start: for all hosts to join. barrier: for all hosts to reach a barrier. heartbeat: after which a
    silent host counts as lost and the others exit. watchdog: without a finished step, after which stacks are dumped."""

    start: float = 300
    barrier: float = 600
    heartbeat: float = 100
    watchdog: float = 1800

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise UserError(f"hosts.{field.name} = {getattr(self, field.name)}: give seconds above 0")


class _ProcessGroup:
    """Global state of this module: timeouts, names of all processes by id, numbers of barriers and of evaluated batches so far,
    and the thread that watches for failures of other processes."""

    timeouts = Timeouts()
    names: tuple[str, ...] = ()
    barriers = 0
    batches = 0
    watch: FailureWatch | None = None


_group = _ProcessGroup()


def connect(
    timeouts: Timeouts, *, coordinator: str | None = None, process_id: int | None = None, processes: int | None = None
) -> None:
    """Connects this process to the other processes of a run, with jax.distributed. Must be called before JAX initializes
    devices.

    coordinator: HOST:PORT of process 0. Arguments that are None are read from HYPERSEG_COORDINATOR, HYPERSEG_PROCESS_ID and
    HYPERSEG_PROCESSES, then from the environment of a TPU pod, GKE, Slurm or Open MPI; without any of these, the run has a
    single process. Raises HostLost, naming the hosts that do not join within timeouts.start.
    """
    _group.timeouts = timeouts
    coordinator = coordinator or os.environ.get("HYPERSEG_COORDINATOR")
    process_id = _read_integer("HYPERSEG_PROCESS_ID") if process_id is None else process_id
    processes = _read_integer("HYPERSEG_PROCESSES") if processes is None else processes
    if processes != 1 and None in (coordinator, process_id, processes):
        explicit = coordinator, processes, process_id
        detected = clusters.ClusterEnv.auto_detect_unset_distributed_params(*explicit, None, None, int(timeouts.start))
        coordinator, processes, process_id = detected[0], detected[1], detected[2]
        if None in (coordinator, processes, process_id):
            if any(value is not None for value in explicit):
                raise UserError("give all of --coordinator HOST:PORT, --process-id and --processes, or none of them")
            return
    if processes == 1:
        return
    if processes is not None and processes > MOST_PROCESSES:
        raise UserError(f"--processes {processes}: give at most {MOST_PROCESSES}")
    if coordinator is None or process_id is None or processes is None or not 0 <= process_id < processes:
        raise UserError(f"--process-id {process_id} of --processes {processes}: give a process id from 0 to processes - 1")
    flags.FLAGS.mark_as_parsed()
    flags.FLAGS["experimental_orbax_use_distributed_barrier"].value = True  # its other barriers have no timeout
    _group.names = tuple(startup_barrier(coordinator, process_id, processes, name=socket.gethostname(), seconds=timeouts.start))
    with exit_on_error():
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            initialization_timeout=int(timeouts.start),
            heartbeat_timeout_seconds=int(timeouts.heartbeat),
            shutdown_timeout_seconds=int(timeouts.barrier),
        )
        _group.watch = FailureWatch(_client(), _exit_after_failure_of)


def _read_integer(variable: str) -> int | None:
    """Returns the value of an environment variable, None if it is not set."""
    text = os.environ.get(variable)
    if text is not None and not re.fullmatch("[0-9]{1,9}", text):
        raise UserError(f"{variable}={escaped(text)}: give a whole number of at most 9 digits, or unset it")
    return None if text is None else int(text)


def _client() -> Any:
    """Returns the client of JAX's coordination service; None in a single process."""
    return distributed.global_state.client


def is_primary() -> bool:
    """Returns whether this is process 0, which writes the files of the run."""
    return jax.process_index() == 0


def process_name(process: int) -> str:
    """Returns the id of a process with its host name, if known, for messages."""
    return f"{process} ({_group.names[process]})" if process < len(_group.names) else str(process)


def exchange(what: str, text: str = "", *, seconds: float | None = None) -> list[str]:
    """Returns the texts of all processes, in the order of their ids (all-gather). Acts as a barrier.

    All processes must make the same calls in the same order. what: the purpose, for messages. seconds: timeout, by default
    hosts.barrier of the config. Raises HostLost, naming the processes that do not arrive in time.
    """
    count, process, client = jax.process_count(), jax.process_index(), _client()
    if count == 1:
        return [text]
    seconds = seconds or _group.timeouts.barrier
    _group.barriers += 1
    folder = f"hyperseg/{_group.barriers}/"
    client.key_value_set(f"{folder}{process}", text)
    try:
        client.wait_at_barrier(f"hyperseg/{_group.barriers}/{what}", int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        arrived = {int(key.rsplit("/", 1)[1]) for key, _ in client.key_value_dir_get(folder)}
        missing = ", ".join(process_name(k) for k in range(count) if k not in arrived) or "none"
        raise HostLost(
            f"{what}: after {seconds:g} s, processes that have not arrived: {missing} of {count}; check their logs, "
            f"or raise hosts.barrier ({str(error).splitlines()[0][:200]})"
        ) from error
    texts = dict(client.key_value_dir_get(folder))
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # all processes have read the previous texts
        client.key_value_delete(f"hyperseg/{_group.barriers - 1}/{process}")
    return [texts[f"{folder}{k}"] for k in range(count)]


def exchange_long(what: str, text: str) -> list[str]:
    """Like `exchange`, for texts of any length: compresses them and sends them in chunks."""
    if jax.process_count() == 1:
        return [text]
    packed = base64.b85encode(zlib.compress(text.encode())).decode()
    chunks = [packed[k : k + CHUNK] for k in range(0, len(packed), CHUNK)]
    counts = [int(count) for count in exchange(f"{what}, chunks", str(len(chunks)))]
    rounds = [exchange(f"{what}, chunk {k}", chunks[k] if k < len(chunks) else "") for k in range(max(counts))]
    return [zlib.decompress(base64.b85decode("".join(parts))).decode() for parts in zip(*rounds, strict=True)]


def combine_failures(what: str, failure: str = "", *, seconds: float | None = None) -> str:
    """Exchanges the failures of all processes and returns the same line with all of them on each process, "" if there are none.
    So either all processes continue or none. All must call it. failure: of this process, or "". what, seconds: see exchange."""
    failures = exchange(what, failure, seconds=seconds)
    if len(failures) == 1:
        return failure
    return "; ".join(f"process {process_name(k)}: {text}" for k, text in enumerate(failures) if text)


def reached_stop(step: int) -> bool:
    """Returns whether all processes must stop after this step, because one of them got SIGTERM. All processes must call it at
    every step. Always False in a single process."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def reached_stop_in_evaluation() -> bool:
    """Like `reached_stop`, for the batches of evaluations. All processes must call it after every batch."""
    _group.batches += 1
    return reached_stop(_group.batches)


def end_on_sigterm() -> None:
    """Lets SIGTERM end this process as in a single process, for work that does not call `reached_stop`. Must be called in the
    main thread."""
    if _client() is not None:  # JAX has replaced the handler, and Python does not know it
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def shut_down() -> None:
    """Waits until all processes have called it, then disconnects from the coordination service."""
    if _client() is None:
        return
    with exit_on_error():
        exchange("the end")
        if _group.watch is not None:
            _group.watch.stop()
        jax.distributed.shutdown()


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """In a multi-process run: after an error in the body, prints one line, announces it to the other processes and exits, with
    the code of `failures.describe`. In a single process, errors propagate.

    The other processes exit with one line and the same code. If this process is killed and cannot announce its failure, JAX
    aborts them after the timeout hosts.heartbeat.
    """
    try:
        yield
    except BaseException as error:
        if _client() is None:
            raise
        failure = failures.describe(error)
        code, line = failure.code, message(failure.line or first_line(error))
        hint = ""
        if failures.is_from_device(error) and code == 1:  # a lost connection
            line = f"{type(error).__name__}: {escaped(first_line(error))}"
            hint = (
                "; another host may have failed; rerun the command on all hosts to resume from the newest checkpoint; "
                f"{failures.WHERE}"
            )
        if _group.watch is not None:
            _group.watch.announce_failure(_process(), f"{code} {line}")
        if failures.settings.with_traceback and not isinstance(error, KeyboardInterrupt):
            traceback.print_exception(error)
        _print_and_exit(code, f"{line}{hint}")


def _process() -> int:
    """Returns the id of this process; unlike jax.process_index(), does not initialize devices."""
    return distributed.global_state.process_id or 0


def _exit_after_failure_of(failed: int, announcement: str) -> None:
    """Exits because process `failed` has failed, with its exit code. announcement: the exit code and error line of that
    process."""
    code, _, line = announcement.partition(" ")
    _print_and_exit(int(code), f"process {process_name(failed)} has failed: {line}")


def _print_and_exit(code: int, line: str) -> NoReturn:
    """Prints an error line, waits until the other failing processes have printed theirs, and ends this process."""
    with contextlib.suppress(ValueError):  # not the main thread; a second Ctrl-C ends the process without another line
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    with contextlib.suppress(Exception):  # os._exit does not
        sys.stdout.flush()
    print(f"error: process {process_name(_process())}: {line}", file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):  # all can print their errors before any exits
        _client().wait_at_barrier("hyperseg/ending", 10_000)
    time.sleep(0 if _process() else 1)  # process 0 runs the coordination service of the others
    os._exit(code)
