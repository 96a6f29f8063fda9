"""A checkpoint's name -> a path on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import re

from hyperseg_jax.atomic import atomic_folder
from hyperseg_jax.cache import cache_folder
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import stores

TEXTS = ("*.json", "merges.txt")  # sizes, index and tokenizer; code is never fetched
WEIGHTS = ("*.safetensors", "*.bin", "*.pth", "*.pt", "*.pkl")  # the first kind that is there


def fetch(source: str) -> pathlib.Path:
    """A local path as it is; paths of stores (gs://, s3://, see untrusted/stores) and Hugging Face names (owner/name, or
    owner/name@revision) once copied into the cache folder. UserError where there is nothing."""
    if stores.is_url(source):
        return _from_store(source)
    path = pathlib.Path(source).expanduser()
    if path.exists():
        return path
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", source):
        return _from_hub(source)
    raise UserError(f"{source}: no such file or folder; give a path, a gs:// path, or a Hugging Face name (owner/name)")


def wanted(names: list[str]) -> list[str]:
    """The files of a checkpoint to copy: texts, and one kind of weights at the top level."""
    top = [name for name in names if "/" not in name]
    weights: list[str] = []
    for pattern in WEIGHTS:
        weights = weights or [name for name in top if pathlib.PurePath(name).match(pattern) and name != "training_args.bin"]
    if not weights:
        return []
    return [name for name in top if any(pathlib.PurePath(name).match(text) for text in TEXTS)] + weights


def _from_hub(source: str) -> pathlib.Path:
    import huggingface_hub

    name, _, revision = source.partition("@")
    try:
        files = wanted(huggingface_hub.list_repo_files(name, revision=revision or None))
        return pathlib.Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=files))
    except Exception as error:  # of the hub, of its names, and of whatever carries it over the network
        with contextlib.suppress(Exception):  # what was downloaded before needs no network
            there = pathlib.Path(huggingface_hub.snapshot_download(name, revision=revision or None, local_files_only=True))
            if wanted([path.name for path in there.iterdir()]):
                return there
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{source}: no such path here, and not to be had from the Hugging Face hub ({reason}); check the name, "
            "the network, and `hf auth login` where it is private"
        ) from error


def _from_store(source: str) -> pathlib.Path:
    store, root = stores.filesystem(source)
    try:
        if store.isfile(root):
            root, name = root.rsplit("/", 1)
            names, single = [name], True
        else:
            names, single = wanted([entry.rsplit("/", 1)[-1] for entry in store.ls(root, detail=False)]), False
        if not names:
            raise UserError(f"{source}: holds no weights ({', '.join(WEIGHTS)})")
        content = [(name, store.ukey(f"{root}/{name}")) for name in names]  # changed files are copied again
        key = hashlib.sha256(repr((source, content)).encode()).hexdigest()[:12]
        folder = cache_folder() / "checkpoints" / f"{pathlib.PurePosixPath(root).name}-{key}"
        if not folder.is_dir():
            with atomic_folder(folder) as part:
                for name in names:
                    store.get_file(f"{root}/{name}", str(part / name))
    except UserError:
        raise
    except Exception as error:  # each store has its own
        raise UserError(f"{source}: cannot be read ({error}); check the path and your right to read it") from error
    return folder / names[0] if single else folder
