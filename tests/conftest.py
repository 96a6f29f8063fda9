"""Settings of all tests: CPU, eight virtual devices, a compilation cache, and the golden options."""

import contextlib
import fcntl
import gc
import importlib.util
import os
import pathlib
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests are dominated by compilation: without these passes, XLA compiles the step of a small model in a fifth of the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1",
)

import jax
import pytest
import shapes

shapes.install()  # before any module of the package is imported

import fuzz  # noqa: E402

MICRO = pathlib.Path(__file__).parent / "micro_config.py"

# Tracing creates many small long-lived objects: garbage collection of them took a tenth of the tests' time.
gc.set_threshold(200_000, 20, 20)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-system", default=None, help="run the golden cases of one system only (hyperseg, metrics, ...)")
    parser.addoption(
        "--golden-complete",
        action="store_true",
        help="fail also on a missing case among those that required.txt marks `full` (needs HYPERSEG_GOLDEN)",
    )
    parser.addoption("--fuzz-rounds", type=int, default=1000, help="damaged weight files of each format")
    parser.addoption("--fuzz-seconds", type=float, default=60, help="how long each slow property test tries new input")
    parser.addoption("--fuzz-seed", type=int, default=0, help="which damage")
    parser.addoption("--write-snapshots", action="store_true", help="write text snapshots instead of comparing with them")
    parser.addoption("--golden-report", default=None, metavar="FILE", help="write the errors of the golden cases as a page")


def pytest_configure(config: pytest.Config) -> None:
    """One compilation cache for all workers and the processes that tests start; and Ctrl-C reaches those, even where whoever
    started the tests ignores it (as a shell does for what it runs in the background)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(config.cache.mkdir("jax"))))
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture
def run_property_long(request):
    """run_property_long(property, strategy): `fuzz.run_property` with new samples, for --fuzz-seconds; for slow tests.
    The terminal summary reports the number of examples."""
    seconds, seed = request.config.getoption("--fuzz-seconds"), request.config.getoption("--fuzz-seed")

    def run(prop, *strategies):
        examples = fuzz.run_property_for(seconds, prop, *strategies, seed=seed)
        request.node.user_properties.append(("examples", examples))

    return run


def pytest_terminal_summary(terminalreporter) -> None:
    """Reports the number of examples of each long property test."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "examples" and report.when == "call":
                terminalreporter.write_line(f"{report.nodeid}: {value} examples")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks take longest, so they run first; at the end, the other worker would wait for them."""
    items.sort(key=lambda item: "notebooks" not in item.path.parts)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """shared(name, make): a folder created by the first worker that requests it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def get_folder(name, make):
        with (base / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / f".{name}.made").exists():
                make(base / name)
                (base / f".{name}.made").touch()
        return base / name

    return get_folder


@pytest.fixture(scope="session")
def world(shared):
    """A toy world of a few images."""
    from hyperseg_jax import toy

    return shared(
        "world", lambda folder: toy.write_world(folder, train=24, val=6, compositional=0, clips=10, log=lambda _: None)
    )


@pytest.fixture(scope="session")
def micro(world):
    """micro(tasks, **fields): the micro config on the toy world; fields as "train__steps"."""
    spec = importlib.util.spec_from_file_location("micro_config", MICRO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def make(tasks=("referring",), **fields):
        config = module.get_config(tasks)
        config.data.root = str(world)
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return config.lock()

    return make


@pytest.fixture(scope="session")
def trained(shared, micro):
    """The workdir of an uninterrupted micro run."""
    from hyperseg_jax.training.loop import train

    with fast_compilation():
        return shared("trained", lambda folder: train(micro(), folder))


@pytest.fixture(scope="session")
def random_model(micro):
    """A micro Model with random weights, whose masks are neither empty nor full; must not be modified."""
    from sample_inputs import random_params

    from hyperseg_jax.predictors.model import Model
    from hyperseg_jax.systems import system as systems
    from hyperseg_jax.text.tokenizer import Tokenizer

    config = micro()
    return Model(config, Tokenizer.toy(), random_params(systems.get("hyperseg").shapes(config), seed=1))


@pytest.fixture(scope="session")
def zero_model(shared, micro):
    """A folder with a micro model whose parameters are zero, for tests of what happens before inference."""
    import numpy as np

    from hyperseg_jax.systems import system as systems
    from hyperseg_jax.text.tokenizer import Tokenizer
    from hyperseg_jax.weights import model_folder

    def make(folder):
        config, system = micro(), systems.get("hyperseg")
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), system.shapes(config))
        model_folder.save_model(folder / "model", config, Tokenizer.toy(), zeros)

    return shared("hollow", make)


@contextlib.contextmanager
def fast_compilation():
    """Compiles without most optimizations, since micro models run briefly."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def _fast_compilation_of_micro_models(request):
    with fast_compilation() if "micro" in request.fixturenames else contextlib.nullcontext():
        yield
