"""Allowed stores: no archives, programs or chained URLs."""

import pytest

from hyperseg_jax.datasets.builds.store import Store
from hyperseg_jax.errors import UserError
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


def test_the_memory_store_is_allowed():
    store, path = stores.open_filesystem("memory://a/b")
    assert path == "/a/b" and store.protocol == "memory"
