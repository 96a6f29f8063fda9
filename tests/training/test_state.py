"""The training step: skipped batches, gradient accumulation, length buckets and moving averages."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from plain_step import make_plain_step

from hyperseg_jax import axes
from hyperseg_jax.parallel import placement
from hyperseg_jax.planning import program
from hyperseg_jax.systems.psalm import lengths
from hyperseg_jax.training import param_groups, state

TABLE = (param_groups.ParamGroup("frozen/.*", rate=0), param_groups.ParamGroup(".*"))
RATE = 0.1


def make_params():
    return {"frozen": {"base": jnp.full(4, 0.1)}, "head": {"kernel": jnp.arange(4.0)}}


def counts(batch):
    return batch["taught"].sum().astype(jnp.float32)


def loss(params, batch, key, counts):
    """Mean over the targets selected by batch["taught"], bool [B, 4]."""
    result = params["head"]["kernel"] * params["frozen"]["base"].astype(jnp.float32)
    total = jnp.sum(jnp.where(batch["taught"], (result - batch["rows"]) ** 2, 0)) / counts
    return total, {"half": total / 2, "noise": jax.random.normal(key)}


def optimizer(clip_norm=None):
    return param_groups.optimizer(
        param_groups.split_params(make_params(), TABLE)[0], TABLE, lambda _: RATE, clip_norm=clip_norm
    )


def batch_of(rows, taught=True):
    rows = jnp.asarray(rows, jnp.float32)
    return {"rows": rows, "taught": jnp.broadcast_to(taught, rows.shape), "bad": jnp.zeros(len(rows), bool)}


def run(batches, *, clip_norm=None, average=0.0, frozen_type="", taught=True, **options):
    tx = optimizer(clip_norm)
    now = state.create_state(make_params(), TABLE, tx, 0, frozen_type=frozen_type, averaged=average > 0)
    step = jax.jit(make_plain_step(loss, tx, counts=counts, average=average, **options))
    recorded = [now]
    for rows in batches:
        now, metrics = step(now, batch_of(rows, taught))
        recorded.append(now)
    return recorded, metrics


def test_a_batch_is_cut_to_the_shortest_sufficient_length():
    def loss(params, batch, key, counts):
        length = batch["layout"]["source"].shape[1]
        return params["head"]["kernel"].sum() * length, {
            "length": jnp.float32(length),
            "kept": batch["layout"]["ids"].sum(),
        }

    tx, cut = optimizer(), {"shorten": lengths.shorten, "needed_length": lengths.needed_length}
    result = [make_plain_step(loss, tx, length_buckets=length_buckets, **cut) for length_buckets in ((), (6, 4, 99), (32,))]
    # The lengths are branches of one program. chex counts traces by function code, which the three steps share.
    chex.clear_trace_counter()
    steps = [jax.jit(chex.assert_max_traces(step, n=len(result))) for step in result]
    for longest, expected in ((1, 4), (4, 4), (5, 6), (6, 6), (7, 10), (10, 10)):
        filled = (np.arange(10) < np.array([[longest], [longest // 2]])).astype(np.int32)
        batch = {"layout": {"source": jnp.asarray(filled), "ids": jnp.asarray(3 * filled)}, "bad": jnp.zeros(2, bool)}
        for step, length in zip(steps, (10, expected, 10), strict=True):
            _, metrics = step(state.create_state(make_params(), TABLE, tx, 0), batch)
            assert float(metrics["length"]) == length and int(metrics["kept"]) == 3 * filled.sum()
            assert float(metrics["gradient_norm"]) == pytest.approx(2 * length)  # the gradient uses that length as well


def get_kernels(states):
    return [np.asarray(each.trainable["head"]["kernel"]) for each in states]


UNEQUAL = np.arange(4) < np.array([[4], [1], [4], [0], [3], [0], [4], [0]])  # of two slices, one has 15 targets and the other 1


@pytest.mark.parametrize("accumulate", [2, 4])
def test_slices_with_unequal_counts_equal_the_full_batch(accumulate):
    batches = np.random.default_rng(0).normal(size=(3, 8, 4)) * 10
    accumulated, metrics = run(batches, taught=UNEQUAL, average=0.9, accumulate=accumulate)
    together, expected = run(batches, taught=UNEQUAL, average=0.9)
    for name in ("loss", "half", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    assert abs(metrics["noise"] - accumulate * expected["noise"]) > 1e-3  # each slice has its own key
    for ours, theirs in zip(accumulated, together, strict=True):
        saved = lambda one: (one.step, one.trainable, one.optimizer, one.average)
        chex.assert_trees_all_close(saved(ours), saved(theirs), rtol=1e-5)
    assert int(accumulated[-1].step) == 3 and not np.array_equal(get_kernels(accumulated)[0], get_kernels(accumulated)[1])


def test_slicing_keeps_elements_on_their_device():
    placed, tx = placement.make("data"), optimizer()
    one, batch = state.create_state(make_params(), TABLE, tx, 0), batch_of(np.random.default_rng(0).normal(size=(32, 4)))
    step = jax.jit(make_plain_step(loss, tx, counts=counts, accumulate=4))
    expected, _ = step(one, batch)
    with placement.use(placed):
        args = jax.device_put(one, placed.replicated), jax.device_put(batch, placed.batch)
        compiled = step.lower(*args).compile()
        changed, _ = compiled(*args)
    assert set(program.parse_program(compiled.as_text()).collectives()) == {"all-reduce"}
    chex.assert_trees_all_close(changed.trainable, expected.trainable, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_non_finite_batch_changes_only_the_counters(accumulate):
    good = np.ones((4, 2, 4))
    bad = np.ones((1, 2, 4))
    bad[0, 1, 2] = np.nan
    states, metrics = run([*good[:1], *bad, *good[1:]], accumulate=accumulate)
    plain, _ = run(good, accumulate=accumulate)
    assert int(states[-1].step) == 5 and int(metrics["skipped"]) == 1 and int(plain[-1].skipped) == 0
    np.testing.assert_array_equal(get_kernels(states)[-1], get_kernels(plain)[-1])
    chex.assert_trees_all_equal(states[2].optimizer, states[1].optimizer)


def test_clipping_uses_the_norm_of_trainable_parameters():
    """Adam is invariant to the gradient's scale, so the first moment is checked for clipping."""
    batch = np.full((1, 1, 4), 100.0)
    free, metrics = run(batch)
    clipped, same = run(batch, clip_norm=1.0)
    norm = float(metrics["gradient_norm"])
    assert norm > 1 and float(same["gradient_norm"]) == pytest.approx(norm)
    moment = lambda states: optax.tree.norm(
        [x for x in jax.tree.leaves(states[-1].optimizer) if x.ndim and x.shape == (4,)][:1]
    )
    assert float(moment(free) / moment(clipped)) == pytest.approx(norm, rel=1e-4)


def test_the_moving_average_is_evaluated():
    rows = np.random.default_rng(0).normal(size=(30, 1, 4)) * 10
    states, _ = run(rows, average=0.9)
    plain, _ = run(rows)
    expected = get_kernels(states)[0]
    for n, kernel in enumerate(get_kernels(states)[1:]):
        share = min(0.9, (1 + n) / (10 + n))
        expected = share * expected + (1 - share) * kernel
    np.testing.assert_allclose(states[-1].average["head"]["kernel"], expected, rtol=1e-5)
    np.testing.assert_array_equal(states[-1].params["head"]["kernel"], states[-1].average["head"]["kernel"])
    np.testing.assert_array_equal(get_kernels(states)[-1], get_kernels(plain)[-1])
    assert plain[-1].average == {} and np.abs(expected - get_kernels(states)[-1]).max() > 0.01


def test_frozen_parameters_keep_their_type_and_values():
    states, _ = run(np.ones((3, 1, 4)), frozen_type="bfloat16")
    for each in states:
        assert each.frozen["frozen"]["base"].dtype == jnp.bfloat16 and each.trainable["head"]["kernel"].dtype == jnp.float32
        np.testing.assert_array_equal(each.frozen["frozen"]["base"], states[0].frozen["frozen"]["base"])
    assert not np.array_equal(get_kernels(states)[0], get_kernels(states)[-1])


def test_moments_and_averages_are_sharded_like_their_parameter():
    boxed = {
        "frozen": {"base": jnp.zeros(8)},
        "head": {"kernel": nn.LogicallyPartitioned(jnp.zeros((16, 8)), axes.check_axis_names(("embed", "mlp")))},
    }
    placed = placement.make("fsdp")
    placed = placement.Placement(placed.preset, placed.mesh, placed.rules, min_size=0)
    plain = nn.unbox(boxed)
    tx = param_groups.optimizer(param_groups.split_params(plain, TABLE)[0], TABLE, lambda _: RATE)
    result = jax.eval_shape(lambda: state.create_state(plain, TABLE, tx, 0, averaged=True))
    where = state.state_shardings(result, placement.parameter_shardings(boxed, placed), TABLE, tx, placed.replicated)
    assert jax.tree.structure(where) == jax.tree.structure(result)
    split = [at.spec for leaf, at in zip(jax.tree.leaves(result), jax.tree.leaves(where), strict=True) if leaf.shape == (16, 8)]
    assert len(split) == 4  # parameter, average and two moments
    assert {str(spec) for spec in split} == {str(jax.P("fsdp"))}
    rest = [at for leaf, at in zip(jax.tree.leaves(result), jax.tree.leaves(where), strict=True) if leaf.shape != (16, 8)]
    assert all(at.is_fully_replicated for at in rest)
