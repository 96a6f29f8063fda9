"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes under a temporary name, then renames."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


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
        part.replace(folder)
        shutil.rmtree(before, ignore_errors=True)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
