"""Files for TensorBoard: scalars and profiles. All are new files, because the folder may come from other people and a name that
can be predicted may be a link out of the workdir."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import socket
import time

import jax

from hyperseg_jax.atomic import atomic_folder, remove_stale, remove_tree
from hyperseg_jax.untrusted import paths
from hyperseg_jax.untrusted.bad_file import BadFile


class Scalars:
    """Writes scalars in the calling thread. The threads of tensorboardX's own writer die on a full disk, and its queue then
    blocks forever."""

    def __init__(self, folder: pathlib.Path, start: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # imported late: slow to import
        from tensorboardX.record_writer import RecordWriter

        class NewFile(RecordWriter):  # type: ignore[misc]  # without the base class's open(), which follows links
            def __init__(self, path: pathlib.Path) -> None:
                self._writer = path.open("xb")

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._flushed = Event, time.monotonic()
        unpredictable = secrets.token_hex(8)
        self._records = NewFile(folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{unpredictable}")
        self._write(file_version="brain.Event:2")
        self._write(step=start + 1, session_log=SessionLog(status=SessionLog.SessionStatus.Value("START")))
        self.flush()

    def write(self, name: str, value: float, step: int) -> None:
        from tensorboardX.summary import scalar

        self._write(step=step, summary=scalar(name, value))
        if time.monotonic() > self._flushed + 20:
            self.flush()

    def flush(self) -> None:
        self._records.flush()
        self._flushed = time.monotonic()

    def _write(self, **fields: object) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())


class Profile:
    """A profile, which is being recorded until `stop` and then appears in `folder`/plugins/profile. moved: messages about
    paths that were moved aside."""

    def __init__(self, folder: pathlib.Path) -> None:
        parents = (folder / "plugins", folder / "plugins" / "profile")
        self.moved = [message for parent in parents if (message := ensure_folder(parent))]
        self._stack = contextlib.ExitStack()
        name = f"{time.strftime('%Y_%m_%d_%H_%M_%S')}_{secrets.token_hex(4)}"
        self._part = self._stack.enter_context(atomic_folder(parents[-1] / name))
        jax.profiler.start_trace(self._part)

    def stop(self) -> None:
        with self._stack:
            jax.profiler.stop_trace()
            for file in self._part.glob("plugins/profile/*/*"):
                file.rename(self._part / file.name)
            remove_tree(self._part / "plugins")


def remove_stale_profiles(folder: pathlib.Path) -> None:
    """Removes the profiles that killed processes were writing, unless links lead to them."""
    profiles = folder / "plugins" / "profile"
    with contextlib.suppress(BadFile):
        paths.join_inside(folder, "plugins/profile")
        remove_stale(profiles)


def ensure_folder(folder: pathlib.Path) -> str:
    """Moves an existing path aside unless it is a folder inside the workdir. Returns a message about it, "" if nothing was
    moved."""
    with contextlib.suppress(BadFile):
        paths.check_link(folder)
        if folder.is_dir() or not os.path.lexists(folder):
            return ""
    return paths.move_aside(folder, "a folder of this run")
