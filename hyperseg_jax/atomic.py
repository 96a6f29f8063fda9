"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator

from hyperseg_jax.errors import UserError


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes under a temporary name, then renames."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`, in the same folder, for whoever writes the file.

    At the end it is renamed to `path`. After an exception, or where nothing was written or it was deleted meanwhile, `path`
    stays as it was, and nothing is left. Raises OSError where nothing can be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        if part.exists():
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_free(folder: pathlib.Path, written: Iterable[str], sources: Iterable[pathlib.Path] = ()) -> None:
    """UserError unless writing `folder` as a whole loses nothing: it may hold only what was written there before (patterns of
    names), and no source may lie in it, nor it in a source."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a new folder")
    own = folder.resolve()
    for source in sources:
        if own == source.resolve() or own in source.resolve().parents:
            raise UserError(f"{folder}: is or holds {source}, which would be lost; give a new folder")
    patterns = tuple(written)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not any(path.match(pattern) for pattern in patterns):
            raise UserError(f"{folder}: holds {path.name}, which would be lost; give a new folder")


@contextlib.contextmanager
def whole_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder beside `folder` to write into. At the end it takes the place of what stood there, which is removed;
    after an exception it is removed itself. Raises OSError where nothing can be written."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        part.chmod(0o755)
        yield part
        before = part.with_name(f"{part.name}-before")
        if folder.exists():
            folder.replace(before)
        try:
            part.replace(folder)
        except OSError:
            if before.exists():
                before.replace(folder)
            raise
        shutil.rmtree(before, ignore_errors=True)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
