"""The owner of a lock, and whether its process is alive."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
import socket
import uuid

from hyperseg_jax.untrusted.printing import escaped


@dataclasses.dataclass(frozen=True)
class Holder:
    """The owner of a lock, as recorded in the lock file.

    token: unique id of this lock object. machine: unique id of the machine. process: process id. began: start time of the
    process, which distinguishes it from later processes with the same id. since: creation time, for messages. beats: number of
    heartbeats so far. free: the owner has released the lock.
    """

    token: str
    host: str
    machine: str
    process: int
    began: str
    since: str
    beats: int = 0
    free: bool = False

    @classmethod
    def this_process(cls) -> Holder:
        """Creates the record of this process as the owner."""
        since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(uuid.uuid4().hex, socket.gethostname(), _machine_id(), os.getpid(), _start_time(os.getpid()) or "", since)

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """Parses the content of a lock file; returns None if it is invalid or incomplete."""
        try:
            fields = json.loads(text)
            holder = cls(**fields)
        except (ValueError, TypeError, RecursionError):
            return None
        kinds = {"str": str, "int": int, "bool": bool}
        is_valid = all(type(fields.get(f.name, f.default)) is kinds[str(f.type)] for f in dataclasses.fields(cls))
        return holder if is_valid else None

    def text(self) -> str:
        """Returns the content of a lock file, which `parse` reads."""
        return json.dumps(dataclasses.asdict(self))

    def __str__(self) -> str:
        return f"process {self.process} on {escaped(self.host)}, since {escaped(self.since)}"

    def is_alive(self) -> bool | None:
        """Returns whether the process of the holder is alive; None if it cannot be determined from this machine."""
        if self.machine != _machine_id():
            return None
        began = _start_time(self.process)
        return None if began == "" else began == self.began


def _machine_id() -> str:
    """Returns a unique id of this machine, or of this container if it has its own process ids."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _start_time(process: int) -> str | None:
    """Returns the start time of a process of this machine in clock ticks since boot; None if there is no such process, "" if
    the process exists but its start time is unknown."""
    try:
        state, *fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    except (FileNotFoundError, ProcessLookupError):
        if pathlib.Path("/proc/self/stat").exists():
            return None
    except OSError:
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except (OSError, OverflowError):
        pass
    return ""
