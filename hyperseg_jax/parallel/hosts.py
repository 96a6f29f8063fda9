"""Many hosts: how they join, agree, and end in bounded time. In a run of one process all of it is trivial."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import socket
import sys
import time
import traceback
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint  # noqa: F401  it defines the flag below
from absl import flags
from jax._src import clusters, distributed  # the coordination service has no public door
from jax.experimental import multihost_utils

from hyperseg_jax.errors import HostLost, UserError
from hyperseg_jax.parallel.startup_barrier import startup_barrier
from hyperseg_jax.untrusted.printing import printable

PIECE = 2**20
"""Characters of a text that the coordination service carries at once."""


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds. start: until all hosts have come. barrier: until all come to a place where they agree. heartbeat: after which
    a silent host counts as lost and the others end. watchdog: without a finished step, after which stacks are dumped."""

    start: float = 300
    barrier: float = 600
    heartbeat: float = 100
    watchdog: float = 1800

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise UserError(f"hosts.{field.name} = {getattr(self, field.name)}: give seconds above 0")


class _Joined:
    """What this process knows of the others."""

    timeouts = Timeouts()
    names: tuple[str, ...] = ()
    meetings = 0


_joined = _Joined()


def join(
    timeouts: Timeouts, *, coordinator: str | None = None, process_id: int | None = None, processes: int | None = None
) -> None:
    """Makes one run of all its processes, before anything asks for devices.

    coordinator: HOST:PORT of process 0. What is None is taken from HYPERSEG_COORDINATOR, HYPERSEG_PROCESS_ID and
    HYPERSEG_PROCESSES, then from the environment of a TPU pod, GKE, Slurm or Open MPI; where none of them speaks, the process
    is alone. HostLost names the hosts that do not come within timeouts.start.
    """
    _joined.timeouts = timeouts
    coordinator = coordinator or os.environ.get("HYPERSEG_COORDINATOR")
    process_id = _number("HYPERSEG_PROCESS_ID") if process_id is None else process_id
    processes = _number("HYPERSEG_PROCESSES") if processes is None else processes
    if processes != 1 and None in (coordinator, process_id, processes):
        given = coordinator, processes, process_id
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(*given, None, None, int(timeouts.start))
        coordinator, processes, process_id = found[0], found[1], found[2]
        if None in (coordinator, processes, process_id):
            if any(value is not None for value in given):
                raise UserError("give --coordinator HOST:PORT, --process-id and --processes together, or none of them")
            return
    if processes == 1:
        return
    if coordinator is None or process_id is None or processes is None or not 0 <= process_id < processes:
        raise UserError(f"--process-id {process_id} of --processes {processes}: give 0 up to one less than their number")
    flags.FLAGS.mark_as_parsed()
    flags.FLAGS["experimental_orbax_use_distributed_barrier"].value = True  # its other barriers have no time limit
    _joined.names = tuple(
        startup_barrier(coordinator, process_id, processes, name=socket.gethostname(), seconds=timeouts.start)
    )
    jax.distributed.initialize(
        coordinator,
        processes,
        process_id,
        initialization_timeout=int(timeouts.start),
        heartbeat_timeout_seconds=int(timeouts.heartbeat),
        shutdown_timeout_seconds=int(timeouts.barrier),
    )


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is not None and not text.isdigit():
        raise UserError(f"{variable}={text}: give a whole number")
    return None if text is None else int(text)


def _service() -> Any:
    """The client of the coordination service that all processes share."""
    return distributed.global_state.client


def leads() -> bool:
    """Whether this process writes the files of the run."""
    return jax.process_index() == 0


def name(process: int) -> str:
    """How messages call a process: its number and its host."""
    return f"{process} ({_joined.names[process]})" if process < len(_joined.names) else str(process)


def exchange(what: str, text: str = "", *, seconds: float | None = None) -> list[str]:
    """Each process gives a text and gets those of all, in the order of their ids; so it is a barrier as well.

    All processes call it in the same order. seconds: hosts.barrier unless given. HostLost names those that do not come.
    """
    count, me, client = jax.process_count(), jax.process_index(), _service()
    if count == 1:
        return [text]
    seconds = seconds or _joined.timeouts.barrier
    _joined.meetings += 1
    folder = f"hyperseg/{_joined.meetings}/"
    client.key_value_set(f"{folder}{me}", text)
    try:
        client.wait_at_barrier(f"hyperseg/{_joined.meetings}/{what}", int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        came = {int(key.rsplit("/", 1)[1]) for key, _ in client.key_value_dir_get(folder)}
        missing = ", ".join(name(k) for k in range(count) if k not in came) or "none"
        raise HostLost(
            f"{what}: after {seconds:g} s, processes that have not come: {missing} of {count}; look at their logs, "
            f"or raise hosts.barrier ({str(error).splitlines()[0][:200]})"
        ) from error
    texts = dict(client.key_value_dir_get(folder))
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # all have read the one before
        client.key_value_delete(f"hyperseg/{_joined.meetings - 1}/{me}")
    return [texts[f"{folder}{k}"] for k in range(count)]


def exchange_long(what: str, text: str) -> list[str]:
    """As `exchange`, for texts of any length: the coordination service carries them packed, in pieces."""
    if jax.process_count() == 1:
        return [text]
    packed = base64.b85encode(zlib.compress(text.encode())).decode()
    pieces = [packed[k : k + PIECE] for k in range(0, len(packed), PIECE)]
    counts = [int(count) for count in exchange(f"{what}, pieces", str(len(pieces)))]
    rounds = [exchange(f"{what}, piece {k}", pieces[k] if k < len(pieces) else "") for k in range(max(counts))]
    return [zlib.decompress(base64.b85decode("".join(told))).decode() for told in zip(*rounds, strict=True)]


def agree(what: str, failure: str = "", *, seconds: float | None = None) -> str:
    """The failures of all processes in one line, "" where there is none: so that all go on, or none does. seconds: see
    exchange."""
    told = exchange(what, failure, seconds=seconds)
    if len(told) == 1:
        return failure
    return "; ".join(f"process {name(k)}: {text}" for k, text in enumerate(told) if text)


def reached_stop(step: int) -> bool:
    """Whether all processes stop after this step because one of them was told to (SIGTERM). Each asks at every step."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def leave() -> None:
    """The end of a run of many processes, which all come to it."""
    if jax.process_count() > 1:
        exchange("the end")
        jax.distributed.shutdown()


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Where there are other processes, an error inside ends this one at once, since they would wait for it: told first, exit
    code 1, 2 for bad input. The others notice within hosts.heartbeat."""
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        if not isinstance(error, UserError):
            traceback.print_exc()
        line = f"{type(error).__name__}: {error}".splitlines()[0] if not isinstance(error, UserError) else str(error)
        broken = isinstance(error, jax.errors.JaxRuntimeError)
        hint = "; another host may be gone, the same command on all hosts goes on from the newest save" if broken else ""
        print(f"error: process {name(jax.process_index())}: {printable(line)}{hint}", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):  # where all fail alike, none pulls the rug from under another
            _service().wait_at_barrier("hyperseg/ending", 5000)
        time.sleep(1 if leads() else 0)  # it holds the service of the others
        os._exit(2 if isinstance(error, UserError) and not isinstance(error, HostLost) else 1)
