"""The mean and spread of the perceiver's gates among the metrics of HyperSeg's loss, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from sample_inputs import random_params
from scipy.special import ndtr

from hyperseg_jax.data import sources
from hyperseg_jax.structs import Layout
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.moments import moments, with_spreads
from hyperseg_jax.systems.pixels import normalize_for_llm, normalize_for_masks
from hyperseg_jax.training import checks, param_groups, state
from hyperseg_jax.training.means import RunningMeans

SYSTEM = systems.get("hyperseg")
INPUTS = {"gate": "attention", "gate_mlp": "mlp"}  # what each gate of a layer is applied to
PATHS = [f"perceiver/layers_{layer}/{gate}" for layer in range(3) for gate in INPUTS]


@pytest.fixture(scope="module")
def config(micro):
    config = micro(("video",)).copy_and_resolve_references().unlock()
    config.model.perceiver.gate_feed_forward = True
    return config


@pytest.fixture(scope="module")
def params(config):
    return random_params(SYSTEM.shapes(config), seed=1)


@pytest.fixture(scope="module")
def batch(config):
    """Four videos of two frames: complete, with one frame, complete, and a blank element. The padding frame has pixels."""
    task = sources.build_tasks(config, SYSTEM, console=Console(quiet=True))["video"]
    elements = [task.processor(task.train[k], train=True) for k in range(3)]
    batch = jax.tree.map(lambda *rows: np.stack(rows), *elements, task.processor.blank())
    batch["frame_valid"][1, 1] = False
    np.testing.assert_array_equal(batch["frame_valid"], [[True, True], [True, False], [True, True], [False, False]])
    return batch


@pytest.fixture(scope="module")
def metrics_of(config, params):
    """f(batch) -> metrics of the loss."""
    loss = jax.jit(SYSTEM.full_loss(SYSTEM.build(config), config))
    return lambda batch: jax.device_get(loss(params, batch, jax.random.key(0))[1])


def values_in_numpy(config, params, batch):
    """Returns the values [valid frames of the batch, F, P] of each gate, computed from what it is applied to."""
    model = SYSTEM.build(config)
    is_input = lambda module, _: module.path[:1] == ("perceiver",) and module.name in INPUTS.values()

    @jax.jit
    def run_frame(query, images, clip_images):
        return model.apply(
            {"params": params},
            normalize_for_masks(images),
            normalize_for_llm(clip_images),
            Layout(**batch["layout"]),
            num_prompts=batch["uses_expression"].shape[1],
            fine_grained_query=query,
            capture_intermediates=is_input,
            mutable="intermediates",
        )

    query = jnp.broadcast_to(params["perceiver"]["query"], (4, *params["perceiver"]["query"].shape))
    values = {path: [] for path in PATHS}
    for t in range(2):
        output, kept = run_frame(query, batch["images"][:, t], batch["clip_images"][:, t])
        query = output.next_query
        for path in PATHS:
            _, layer, gate = path.split("/")
            x = np.asarray(kept["intermediates"]["perceiver"][layer][INPUTS[gate]]["__call__"][0])
            up, down = (params["perceiver"][layer][gate][name] for name in ("up", "down"))
            hidden = x @ up["kernel"] + up["bias"]
            gates = np.tanh((hidden * ndtr(hidden)) @ down["kernel"] + down["bias"])
            values[path].append(gates[batch["frame_valid"][:, t]])
    return {path: np.concatenate(frames) for path, frames in values.items()}


def test_metrics_are_the_mean_and_spread_of_valid_frames(config, params, batch, metrics_of):
    metrics = with_spreads(metrics_of(batch))
    assert {name for name in metrics if "gate" in name} == {
        f"gates/{path}/{moment}" for path in PATHS for moment in ("mean", "spread")
    }
    for path, values in values_in_numpy(config, params, batch).items():
        assert values.shape == (5, 2, 16) and values.std() > 0.1
        assert metrics[f"gates/{path}/mean"] == pytest.approx(values.mean(), abs=1e-5)
        assert metrics[f"gates/{path}/spread"] == pytest.approx(values.std(), abs=1e-5)


@pytest.mark.slow
def test_metrics_of_slices_are_those_of_the_batch(config, params, batch):
    """The slices have four and one valid frames."""
    groups = (param_groups.ParamGroup("query_projector/.*"), param_groups.ParamGroup(".*", rate=0))
    tx = param_groups.optimizer(param_groups.split_params(params, groups)[0], groups, lambda step: 0.1, clip_norm=None)
    start, results = state.create_state(params, groups, tx, 0), []
    for accumulate in (1, 2):
        config.optimizer.accumulate = accumulate
        step = jax.jit(state.make_step(SYSTEM, SYSTEM.build(config), config, tx))
        results.append({name: value for name, value in step(start, batch)[1].items() if name.startswith("gates/")})
    assert len(results[0]) == 2 * len(PATHS) and results[1].keys() == results[0].keys()
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_batch_of_blank_elements_is_not_counted(batch, metrics_of):
    means = RunningMeans()
    for valid in (batch["frame_valid"], np.zeros_like(batch["frame_valid"])):
        metrics = metrics_of(batch | {"frame_valid": valid})
        means.add("video", {name: value for name, value in metrics.items() if "gate" in name})
    (result,), expected = means.compute().values(), metrics_of(batch)
    assert result.pop("steps") == 2 and len(result) == 2 * len(PATHS)
    assert result == pytest.approx({name: float(expected[name]) for name in result})


def test_without_gates_there_are_no_metrics(micro):
    names = checks.train_metric_names(micro(("region",), model__perceiver__gate="none"))
    assert "region" in names and not any("gate" in name for name in names)
    with_gates = checks.train_metric_names(micro(("region",)))
    assert {name for name in with_gates if "gate" in name} == {
        f"gates/perceiver/layers_{k}/gate/{moment}" for k in range(3) for moment in ("mean", "spread")
    }


def test_the_spread_is_that_of_all_steps():
    values = np.random.default_rng(0).normal(0.3, 0.1, (2, 3, 4, 5)).astype(np.float32)
    means = RunningMeans()
    for step in values:
        means.add("a", moments("x", jnp.asarray(step, jnp.bfloat16), jnp.full(3, 1 / 3)))
    result = with_spreads(means.compute()["a"])
    rounded = np.asarray(jnp.asarray(values, jnp.bfloat16), np.float64)
    assert result == pytest.approx({"steps": 2, "x/mean": rounded.mean(), "x/spread": rounded.std()}, rel=1e-4)
    assert np.isnan(with_spreads({"x/mean": float("nan"), "x/mean_square": float("nan")})["x/spread"])
    assert with_spreads({"x/mean": 0.5, "x/mean_square": 0.2499999})["x/spread"] == 0.0
