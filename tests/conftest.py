"""Settings of every test: CPU, eight virtual devices, a compilation cache, and the golden options."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-system", default=None, help="run the golden cases of one system only (hyperseg, metrics, ...)")
    parser.addoption(
        "--golden-complete",
        action="store_true",
        help="fail also on a missing case among those that required.txt marks `full` (needs HYPERSEG_GOLDEN)",
    )
