"""Where a run lives: a folder that all hosts share, or a bucket. Process 0 writes what people read, Orbax the checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
from etils import epath

from hyperseg_jax import config as configs
from hyperseg_jax import renamed_fields
from hyperseg_jax.atomic import scratch_folder, write_text
from hyperseg_jax.errors import UserError
from hyperseg_jax.locks.lock import Lock
from hyperseg_jax.parallel import hosts
from hyperseg_jax.tables import flatten
from hyperseg_jax.untrusted import paths, stores, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile, naming, reason
from hyperseg_jax.untrusted.checkpoints import is_step_name

UNREADABLE_RECORDS = "unreadable_records.txt"
FETCHED = ("metrics.jsonl", "tensorboard", UNREADABLE_RECORDS)  # what a run goes on writing where it stopped


class Workdir:
    """A context manager around the workdir of a run.

    home: where it lives. local: the folder to write into; home itself, or where home is a bucket, which takes no appended
    lines, a scratch folder that `push` copies up. On all processes but the first it is a scratch folder that nobody keeps, so
    that they write what process 0 writes and no line asks which one it is.

    From `open` on process 0 holds the lock of the workdir. say: takes the line that tells of a wait for it.
    """

    def __init__(self, home: os.PathLike[str] | str, *, say: Callable[[str], None] = print) -> None:
        self._kept = contextlib.ExitStack()
        self._lock = Lock(home, log=say)
        self.home = epath.Path(home)
        self.remote = stores.is_url(os.fspath(self.home))
        self.local = pathlib.Path(home)
        if self.remote or not hosts.leads():
            self.local = self._kept.enter_context(scratch_folder())
        self._pushed: dict[pathlib.Path, tuple[int, int]] = {}

    def __enter__(self) -> Workdir:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._lock.release()
        self._kept.close()

    def check(self, config: ml_collections.ConfigDict) -> None:
        """UserError, on all processes, where they were given different configs, or the workdir holds checkpoints or a model of
        another config or lies where no folder can be made. Writes nothing."""
        resolved = _resolved(config)
        given = hosts.exchange("the config", resolved)
        other = [k for k, text in enumerate(given) if text != given[0]]
        if other:
            raise UserError(
                f"process {hosts.name(other[0])} was given another config than process 0; start all with one command"
            )
        self._lead(self._check, json.loads(resolved))

    def open(self, config: ml_collections.ConfigDict) -> None:
        """Locks the workdir, makes it and writes its resolved config.

        UserError, on all processes, where another run holds it, where it cannot be written or is not the same folder on all
        hosts.
        """
        self._lead(self._open, _resolved(config))
        unseen = "" if (self.home / "config.json").exists() else "does not see what process 0 wrote there"
        if unseen := hosts.agree("the workdir's config", unseen):
            raise UserError(f"--workdir {self.home}: {unseen}; give a folder that all hosts share, or a bucket (gs://name/run)")

    @property
    def begun(self) -> bool:
        """Whether checkpoints may lie there; without one there is nothing to go on from."""
        folder = self.home / "checkpoints"
        try:
            return folder.is_dir() and any(is_step_name(path.name) for path in folder.iterdir())
        except Exception:  # as in push; whoever opens the checkpoints tells
            return True

    def check_lock(self) -> None:
        """UserError, on all processes, where another run has taken the workdir over. Asked before a save."""
        self._lead(lambda _: self._lock.check(), None)

    def _lead(self, act: Callable[[Any], None], given: Any) -> None:
        """act(given) on process 0; its UserError is raised on all."""
        failure = ""
        if hosts.leads():
            try:
                act(given)
            except UserError as error:
                failure = str(error)
        if failure := hosts.exchange("the workdir", failure)[0]:
            raise UserError(failure)

    def _check(self, resolved: dict[str, Any]) -> None:
        path = self.home / "config.json"
        bound = path.exists() and (self.begun or (self.home / "model").exists())  # else the run has nothing to lose
        if bound and (other := configs.describe_differences(_held(self._config(path)), _held(resolved))):
            raise UserError(
                f"{self.home}: holds a run of another config ({other}); "
                "give another --workdir, or the config it was trained with"
            )
        if not self.remote:
            home = pathlib.Path(self.home).absolute()
            above = next(folder for folder in (home, *home.parents) if folder.exists())
            if not above.is_dir():
                raise UserError(f"--workdir {self.home}: cannot be written ({above} is a file); give another folder")
            with naming(home):
                paths.inside(home, "model")

    def _config(self, path: epath.Path) -> dict[str, Any]:
        """What the config.json of the run that is there holds. It is not trusted."""
        try:
            data = path.read_bytes() if self.remote else strict_json.contents(paths.own(pathlib.Path(path)))
            return renamed_fields.migrate(strict_json.parse(data, "its content"))
        except (BadFile, OSError) as error:
            raise UserError(f"{path}: not readable ({reason(error)}); delete this workdir or give another --workdir") from error

    def _open(self, resolved: str) -> None:
        self._lock.acquire()
        self._check(json.loads(resolved))  # another run may have begun, and ended, since it was checked
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            write_text(self.local / "config.json", resolved + "\n")
            self._fetch()
            self.push()
        except Exception as error:  # as in push
            raise UserError(f"--workdir {self.home}: cannot be written ({reason(error)}); give another folder") from error

    def _fetch(self) -> None:
        if self.remote:
            for found in FETCHED:
                for path in _files(self.home / found):
                    target = self.local.joinpath(path.relative_to(self.home))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("rb") as there, target.open("wb") as here:
                        shutil.copyfileobj(there, here)

    def push(self) -> None:
        """Copies up what has changed since the last time, where the workdir is a bucket. Raises OSError."""
        if not (self.remote and hosts.leads()):
            return
        for path in sorted(self.local.rglob("*")):
            told = (path.stat().st_mtime_ns, path.stat().st_size)
            hidden = any(name.startswith(".") for name in path.relative_to(self.local).parts)
            if path.is_file() and not hidden and self._pushed.get(path) != told:
                target = self.home.joinpath(path.relative_to(self.local))
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("rb") as here, target.open("wb") as there:
                        shutil.copyfileobj(here, there)
                except Exception as error:  # a store's client raises what it likes
                    raise OSError(getattr(error, "errno", None), reason(error), str(target)) from error
                self._pushed[path] = told


def _resolved(config: ml_collections.ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def _files(path: epath.Path) -> list[epath.Path]:
    """All files of a folder, at any depth, or the file itself."""
    if path.is_dir():
        return [file for child in sorted(path.iterdir()) for file in _files(child)]
    return [path] if path.exists() else []


def _held(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a run keeps for life; the others may change when it goes on."""
    kept = {name: config.get(name) for name in ("system", "model", "optimizer")}
    train = config.get("train")
    return flatten({**kept, "train": {"batch_size": train.get("batch_size") if isinstance(train, dict) else None}})
