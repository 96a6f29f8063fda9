"""Downloads checkpoints from buckets and the Hugging Face hub."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import re

from hyperseg_jax.atomic import atomic_folder
from hyperseg_jax.cache import cache_folder
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import stores

TEXTS = ("*.json", "merges.txt")  # config, index and tokenizer; code is never downloaded
WEIGHTS = ("*.safetensors", "*.bin", "*.pth", "*.pt", "*.pkl")  # in order of preference; one format is downloaded


def fetch_checkpoint(source: str) -> pathlib.Path:
    """Returns the local path of a checkpoint. Bucket URLs (gs://, s3://, see untrusted/stores) and Hugging Face names
    (owner/name, or owner/name@revision) are downloaded into the cache folder; local paths are returned unchanged. Raises
    UserError if there is no such checkpoint."""
    if stores.is_url(source):
        return _fetch_from_bucket(source)
    path = pathlib.Path(source).expanduser()
    if path.exists():
        return path
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", source):
        return _fetch_from_hub(source)
    raise UserError(f"{source}: no such file or folder; give a path, a gs:// path, or a Hugging Face name (owner/name)")


def select_files(names: list[str]) -> list[str]:
    """Selects the files of a checkpoint to download: top-level text files, and weights of one format."""
    top = [name for name in names if "/" not in name]
    weights: list[str] = []
    for pattern in WEIGHTS:
        weights = weights or [name for name in top if pathlib.PurePath(name).match(pattern) and name != "training_args.bin"]
    if not weights:
        return []
    return [name for name in top if any(pathlib.PurePath(name).match(text) for text in TEXTS)] + weights


def _fetch_from_hub(source: str) -> pathlib.Path:
    import huggingface_hub

    name, _, revision = source.partition("@")
    try:
        files = select_files(huggingface_hub.list_repo_files(name, revision=revision or None))
        return pathlib.Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=files))
    except Exception as error:  # the hub client and its network libraries raise many types
        with contextlib.suppress(Exception):  # an earlier download can be used offline
            cached = pathlib.Path(huggingface_hub.snapshot_download(name, revision=revision or None, local_files_only=True))
            if select_files([path.name for path in cached.iterdir()]):
                return cached
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{source}: no such path, and cannot be downloaded from the Hugging Face hub ({reason}); check the name, "
            "the network, and `hf auth login` if it is private"
        ) from error


def _fetch_from_bucket(source: str) -> pathlib.Path:
    store, root = stores.open_filesystem(source)
    try:
        if store.isfile(root):
            root, name = root.rsplit("/", 1)
            names, single = [name], True
        else:
            names, single = select_files([entry.rsplit("/", 1)[-1] for entry in store.ls(root, detail=False)]), False
        if not names:
            raise UserError(f"{source}: contains no weights; give a folder with {' or '.join(WEIGHTS)}")
        content = [(name, store.ukey(f"{root}/{name}")) for name in names]  # changed files are downloaded again
        key = hashlib.sha256(repr((source, content)).encode()).hexdigest()[:12]
        folder = cache_folder() / "checkpoints" / f"{pathlib.PurePosixPath(root).name}-{key}"
        if not folder.is_dir():
            with atomic_folder(folder) as part:
                for name in names:
                    store.get_file(f"{root}/{name}", str(part / name))
    except UserError:
        raise
    except Exception as error:  # stores raise different exceptions
        raise UserError(f"{source}: cannot be read ({error}); check the path and your permission to read it") from error
    return folder / names[0] if single else folder
