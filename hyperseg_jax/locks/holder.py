"""Who holds a lock, and whether that process still lives."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
import socket
import uuid

from hyperseg_jax.untrusted.printing import shown


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who has a lock, as its file tells. machine: what no other machine has. began: what tells the process from a later one of
    the same number. beats: its signs of life so far. free: it has ended and left the lock."""

    token: str
    host: str
    machine: str
    process: int
    began: str
    since: str
    beats: int = 0
    free: bool = False

    @classmethod
    def me(cls) -> Holder:
        since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(uuid.uuid4().hex, socket.gethostname(), _machine(), os.getpid(), _began(os.getpid()) or "", since)

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """None for what is no record of a holder, such as one that is just being written."""
        try:
            facts = json.loads(text)
            holder = cls(**facts)
        except (ValueError, TypeError, RecursionError):
            return None
        kinds = {"str": str, "int": int, "bool": bool}
        fits = all(type(facts.get(f.name, f.default)) is kinds[str(f.type)] for f in dataclasses.fields(cls))
        return holder if fits else None

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def __str__(self) -> str:
        return f"process {self.process} on {shown(self.host)}, since {shown(self.since)}"

    def lives(self) -> bool | None:
        """None where that cannot be seen from here."""
        if self.machine != _machine():
            return None
        began = _began(self.process)
        return None if began == "" else began == self.began


def _machine() -> str:
    """What no other machine has, and no other container where process numbers mean something else."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _began(process: int) -> str | None:
    """When a process of this machine began, in ticks since the start of the machine; None where there is none, "" where only
    that it is there can be seen."""
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
