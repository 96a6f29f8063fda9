"""Allowed stores: no archives, programs or chained URLs."""

import pathlib

import pytest

from hyperseg_jax.datasets.builds.store import Store
from hyperseg_jax.errors import UserError
from hyperseg_jax.training.model_export import write_model
from hyperseg_jax.training.workdir import Workdir
from hyperseg_jax.untrusted import stores
from hyperseg_jax.weights.fetch import fetch_checkpoint

REFUSED = [
    "zip://x::file:///etc/passwd",
    "simplecache::gs://a/b",
    "gs://a::zip://b",
    "file:///etc/passwd",
    "local:///etc/passwd",
    "http://127.0.0.1/a",
    "https://example.org/a",
    "ssh://a/b",
    "git://a/b",
    "reference://a",
    "github://a:b@c/d",
    "data://a",
    "dir://a",
    "tar://a",
    "blockcache://a",
    "://a",
]


@pytest.mark.parametrize("url", REFUSED)
@pytest.mark.parametrize("use", [Store, fetch_checkpoint, stores.open_filesystem])
def test_other_stores_are_refused(url, use):
    if stores.is_url(url):
        with pytest.raises(UserError, match="is not a supported bucket URL; use a local path, or one of gs://"):
            use(url)


@pytest.mark.parametrize(
    "url, message",
    [
        ("gs://b/x", r"^gs://b/x: needs support for gs:// \(no gcsfs\); pip install 'hyperseg-jax\[cloud\]'$"),
        ("gcs://b/x", "write gs://b/x$"),
        ("s3a://b/x", "write s3://b/x$"),
        ("abfss://b/x", "write az://b/x$"),
        ("memory://b/x", "workdirs cannot be named with memory://"),
        ("zip://x::file:///etc/passwd", "is not a supported bucket URL"),
    ],
)
@pytest.mark.parametrize("use", [stores.check_workdir, Workdir, lambda url: write_model(url, pathlib.Path("out"))])
def test_workdirs_in_buckets(monkeypatch, url, message, use):
    import fsspec

    def missing(scheme):
        raise ImportError("no gcsfs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UserError, match=message):
        use(url)


def test_local_workdirs_are_not_checked():
    stores.check_workdir("runs/first")
    stores.check_workdir(pathlib.Path("runs/first"))
    stores.check_workdir("gs://b/x", client=False)


def test_the_memory_store_is_allowed():
    store, path = stores.open_filesystem("memory://a/b")
    assert path == "/a/b" and store.protocol == "memory"
