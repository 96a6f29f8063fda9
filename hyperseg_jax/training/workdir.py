"""The workdir of a run: a folder that all hosts share, or a bucket. Process 0 writes logs and models, Orbax the checkpoints."""

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

from hyperseg_jax import renamed_fields
from hyperseg_jax.atomic import clean, scratch_folder, write_text
from hyperseg_jax.errors import UserError
from hyperseg_jax.locks.lock import Lock
from hyperseg_jax.parallel import hosts
from hyperseg_jax.text.tokenizer import LARGEST, Tokenizer
from hyperseg_jax.training import resume
from hyperseg_jax.untrusted import paths, stores, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile, failure_reason, naming_path
from hyperseg_jax.untrusted.checkpoints import is_step_name

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
UNREADABLE_RECORDS = "unreadable_records.txt"
FETCHED = ("metrics.jsonl", "tensorboard", UNREADABLE_RECORDS)  # files that a resumed run appends to


class Workdir:
    """A context manager around the workdir of a run.

    path: the folder or bucket. local: the folder to write into: `path` itself, or a scratch folder that `push` uploads if
    `path` is a bucket, because files in buckets cannot be appended to. On processes other than 0 it is a temporary folder, so
    that all processes can run the same code. accept_changes: whether an existing run may be continued with another data
    mixture, other losses or another learning rate.

    From `open` on, process 0 holds the lock of the workdir. log: receives a line while it waits for the lock, and for accepted
    changes.
    """

    def __init__(
        self, path: os.PathLike[str] | str, *, accept_changes: bool = False, log: Callable[[str], None] = print
    ) -> None:
        self._accept_changes, self._log = accept_changes, log
        stores.check_workdir(path)
        self._stack = contextlib.ExitStack()
        self._lock = Lock(path, log=log)
        self.path = epath.Path(path)
        self.remote = stores.is_url(os.fspath(self.path))
        self.local = pathlib.Path(path)
        if self.remote or not hosts.is_primary():
            self.local = self._stack.enter_context(scratch_folder())
        self._pushed: dict[pathlib.Path, tuple[int, int]] = {}

    def __enter__(self) -> Workdir:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._lock.release()
        self._stack.close()

    def check(self, config: ml_collections.ConfigDict, tokenizer: Tokenizer | None = None) -> None:
        """Raises UserError on all processes if their configs differ, if the workdir has checkpoints or a model of another
        config or tokenizer, or if it cannot be created. Writes nothing. tokenizer: None if it is not known."""
        resolved = _config_to_json(config)
        configs_of_all = hosts.exchange("the config", resolved)
        different = [k for k, text in enumerate(configs_of_all) if text != configs_of_all[0]]
        if different:
            raise UserError(
                f"process {hosts.process_name(different[0])} has another config than process 0; start all with the same command"
            )
        self._run_on_primary(self._check, {CONFIG: resolved, **({TOKENIZER: tokenizer.to_json()} if tokenizer else {})})

    def open(self, config: ml_collections.ConfigDict, tokenizer: Tokenizer | None) -> None:
        """Locks the workdir, creates it, and writes the resolved config and the tokenizer (None: no text).

        Raises UserError on all processes if another run holds the lock, if the workdir cannot be written, or if it is not
        the same folder on all hosts.
        """
        text = {} if tokenizer is None else {TOKENIZER: tokenizer.to_json()}
        self._run_on_primary(self._open, {CONFIG: _config_to_json(config), **text})
        error = "" if (self.path / CONFIG).exists() else "cannot see the files that process 0 wrote"
        if error := hosts.combine_failures("the workdir's config", error):
            raise UserError(f"--workdir {self.path}: {error}; use a folder that all hosts share, or a bucket (gs://name/run)")

    @property
    def has_checkpoints(self) -> bool:
        """Whether there may be checkpoints to resume from."""
        return has_checkpoints(self.path)

    def check_lock(self) -> None:
        """Raises UserError on all processes if another run has taken over the workdir. Called before each save."""
        self._run_on_primary(lambda _: self._lock.check_still_held(), None)

    def _run_on_primary(self, function: Callable[[Any], None], argument: Any) -> None:
        """Calls function(argument) on process 0 and raises its UserError on all processes."""
        failure = ""
        if hosts.is_primary():
            try:
                function(argument)
            except UserError as error:
                failure = str(error)
        if failure := hosts.exchange("the workdir", failure)[0]:
            raise UserError(failure)

    def _check(self, files: Mapping[str, str]) -> None:
        """Checks the workdir for the files of a run: {CONFIG: content, TOKENIZER: content, if it is known}."""
        path = self.path / CONFIG
        if (self.path / "model.safetensors").exists():
            raise UserError(f"{self.path}: is a model folder, whose {CONFIG} a run would replace; give another --workdir")
        if path.exists() and (self.has_checkpoints or (self.path / "model").exists()):
            self._check_changes(self._read_config(path), json.loads(files[CONFIG]))
        elif path.exists() and "train" not in self._read_config(path):
            raise UserError(f"{path}: is not of a run, which would replace it; give another --workdir")
        if TOKENIZER in files:
            self._check_tokenizer(files[TOKENIZER])
        if not self.remote:
            folder = pathlib.Path(self.path).absolute()
            existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
            if not existing.is_dir():
                raise UserError(f"--workdir {self.path}: cannot be written ({existing} is a file); give another folder")
            with naming_path(folder):
                paths.join_inside(folder, "model")

    def _check_changes(self, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        """Raises UserError if the config of the existing run does not allow to resume it with the given one."""
        if changes := resume.state_changes(saved, given):
            raise UserError(
                f"{self.path}: contains a run with another config ({changes}); "
                "use another --workdir, or the config it was trained with"
            )
        changes = resume.run_changes(saved, given)
        if changes and not self._accept_changes:
            raise UserError(
                f"{self.path}: contains a run with another config ({changes}); give the config it was trained with, or "
                f"{resume.FLAG} to continue with these changes"
            )
        if changes:
            self._log(f"{self.path}: continues with another config ({changes})")

    def _check_tokenizer(self, content: str) -> None:
        """Raises UserError if the existing run was trained with another tokenizer."""
        path = self.path / TOKENIZER
        if not self.has_checkpoints or not path.exists():  # earlier versions wrote none
            return
        try:
            if self.remote:
                saved = stores.read_contents(path, LARGEST)
            else:
                saved = strict_json.read_bytes(paths.check_link(pathlib.Path(path)), LARGEST)
            same = strict_json.parse_any(saved, "its content") == json.loads(content)
        except (BadFile, OSError) as error:
            reason = failure_reason(error)
            raise UserError(f"{path}: not readable ({reason}); remove it if data.tokenizer is that of the run") from error
        if not same:
            raise UserError(
                f"{self.path}: was trained with another tokenizer ({TOKENIZER} differs); give that one as data.tokenizer"
            )

    def _read_config(self, path: epath.Path) -> dict[str, Any]:
        """Returns the content of the existing config.json, which is untrusted."""
        try:
            if self.remote:
                data = stores.read_contents(path, strict_json.LARGEST)
            else:
                data = strict_json.read_bytes(paths.check_link(pathlib.Path(path)))
            return renamed_fields.migrate(strict_json.parse(data, "its content"))
        except (BadFile, OSError) as error:
            raise UserError(
                f"{path}: not readable ({failure_reason(error)}); delete this workdir or give another --workdir"
            ) from error

    def _open(self, files: Mapping[str, str]) -> None:
        self._lock.acquire()
        if not self.remote:
            clean(self.local)
        self._check(files)  # another run may have started and ended since the first check
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                write_text(self.local / name, content)
            self._download()
            self.push()
        except BadFile as error:
            raise UserError(f"--workdir {self.path}: {error}, or give another folder") from error
        except Exception as error:  # storage clients raise many types of errors
            raise UserError(
                f"--workdir {self.path}: cannot be written ({failure_reason(error)}); give another folder"
            ) from error

    def _download(self) -> None:
        """Copies the files that the run continues, if the workdir is a bucket, to the local folder."""
        if self.remote:
            for name in FETCHED:
                for relative, path in stores.files(self.path / name):
                    target = self.local / relative
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("rb") as source, target.open("wb") as copy:
                        shutil.copyfileobj(source, copy)

    def push(self) -> None:
        """Uploads the files that changed since the last call, if the workdir is a bucket. Raises OSError."""
        if not (self.remote and hosts.is_primary()):
            return
        for path in sorted(self.local.rglob("*")):
            if any(name.startswith(".") for name in path.relative_to(self.local).parts):
                continue  # temporary files
            version = (path.stat().st_mtime_ns, path.stat().st_size)
            if path.is_file() and self._pushed.get(path) != version:
                target = self.path.joinpath(path.relative_to(self.local))
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("rb") as source, target.open("wb") as copy:
                        shutil.copyfileobj(source, copy)
                except Exception as error:  # storage clients raise many types of errors
                    raise OSError(getattr(error, "errno", None), failure_reason(error), str(target)) from error
                self._pushed[path] = version


def has_checkpoints(path: epath.Path) -> bool:
    """Returns whether a workdir may have checkpoints."""
    folder = path / "checkpoints"
    try:
        return folder.is_dir() and any(is_step_name(path.name) for path in folder.iterdir())
    except Exception:  # storage clients raise many types of errors; Checkpoints reports them
        return True


def _config_to_json(config: ml_collections.ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
