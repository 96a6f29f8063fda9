"""The step: what it keeps, skips, accumulates, length_buckets and averages."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from plain_step import step_of

from hyperseg_jax import axes
from hyperseg_jax.parallel import placement
from hyperseg_jax.planning import program
from hyperseg_jax.systems.hyperseg import lengths
from hyperseg_jax.training import param_groups, state

TABLE = (param_groups.ParamGroup("frozen/.*", rate=0), param_groups.ParamGroup(".*"))
RATE = 0.1


def params():
    return {"frozen": {"base": jnp.full(4, 0.1)}, "head": {"kernel": jnp.arange(4.0)}}


def counts(batch):
    return batch["taught"].sum().astype(jnp.float32)


def loss(params, batch, key, counts):
    """The mean over what is taught: batch["taught"], bool [B, 4]."""
    found = params["head"]["kernel"] * params["frozen"]["base"].astype(jnp.float32)
    total = jnp.sum(jnp.where(batch["taught"], (found - batch["rows"]) ** 2, 0)) / counts
    return total, {"half": total / 2, "noise": jax.random.normal(key)}


def optimizer(clip_norm=None):
    return param_groups.optimizer(param_groups.split(params(), TABLE)[0], TABLE, lambda _: RATE, clip_norm=clip_norm)


def batch_of(rows, taught=True):
    rows = jnp.asarray(rows, jnp.float32)
    return {"rows": rows, "taught": jnp.broadcast_to(taught, rows.shape), "bad": jnp.zeros(len(rows), bool)}


def run(batches, *, clip_norm=None, average=0.0, frozen_type="", taught=True, **options):
    tx = optimizer(clip_norm)
    now = state.create(params(), TABLE, tx, 0, frozen_type=frozen_type, averaged=average > 0)
    step = jax.jit(step_of(loss, tx, counts=counts, average=average, **options))
    seen = [now]
    for rows in batches:
        now, metrics = step(now, batch_of(rows, taught))
        seen.append(now)
    return seen, metrics


def test_a_batch_is_cut_to_the_shortest_length_that_holds_it():
    def loss(params, batch, key, counts):
        length = batch["layout"]["source"].shape[1]
        return params["head"]["kernel"].sum() * length, {"length": jnp.float32(length), "kept": batch["layout"]["ids"].sum()}

    tx, cut = optimizer(), {"shorten": lengths.shorten, "needed_length": lengths.needed_length}
    made = [step_of(loss, tx, length_buckets=length_buckets, **cut) for length_buckets in ((), (6, 4, 99), (32,))]
    # The lengths are branches of one program. chex counts by the code of the function, which the three steps share.
    chex.clear_trace_counter()
    steps = [jax.jit(chex.assert_max_traces(step, n=len(made))) for step in made]
    for longest, wanted in ((1, 4), (4, 4), (5, 6), (6, 6), (7, 10), (10, 10)):
        filled = (np.arange(10) < np.array([[longest], [longest // 2]])).astype(np.int32)
        batch = {"layout": {"source": jnp.asarray(filled), "ids": jnp.asarray(3 * filled)}, "bad": jnp.zeros(2, bool)}
        for step, length in zip(steps, (10, wanted, 10), strict=True):
            _, metrics = step(state.create(params(), TABLE, tx, 0), batch)
            assert float(metrics["length"]) == length and int(metrics["kept"]) == 3 * filled.sum()
            assert float(metrics["gradient_norm"]) == pytest.approx(2 * length)  # the gradient is of that length as well


def kernels(seen):
    return [np.asarray(each.trainable["head"]["kernel"]) for each in seen]


UNEQUAL = np.arange(4) < np.array(
    [[4], [1], [4], [0], [3], [0], [4], [0]]
)  # of two slices, 15 are taught in one and 1 in the other


@pytest.mark.parametrize("accumulate", [2, 4])
def test_slices_with_unequal_counts_are_the_whole_batch(accumulate):
    batches = np.random.default_rng(0).normal(size=(3, 8, 4)) * 10
    apart, metrics = run(batches, taught=UNEQUAL, average=0.9, accumulate=accumulate)
    together, wanted = run(batches, taught=UNEQUAL, average=0.9)
    for name in ("loss", "half", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5)
    assert abs(metrics["noise"] - accumulate * wanted["noise"]) > 1e-3  # each slice has a key of its own
    for ours, theirs in zip(apart, together, strict=True):
        kept = lambda one: (one.step, one.trainable, one.optimizer, one.average)
        chex.assert_trees_all_close(kept(ours), kept(theirs), rtol=1e-5)
    assert int(apart[-1].step) == 3 and not np.array_equal(kernels(apart)[0], kernels(apart)[1])


def test_no_element_leaves_its_device_for_a_slice():
    placed, tx = placement.make("data"), optimizer()
    one, batch = state.create(params(), TABLE, tx, 0), batch_of(np.random.default_rng(0).normal(size=(32, 4)))
    step = jax.jit(step_of(loss, tx, counts=counts, accumulate=4))
    wanted, _ = step(one, batch)
    with placement.use(placed):
        given = jax.device_put(one, placed.replicated), jax.device_put(batch, placed.batch)
        compiled = step.lower(*given).compile()
        changed, _ = compiled(*given)
    assert set(program.read(compiled.as_text()).collectives()) == {"all-reduce"}
    chex.assert_trees_all_close(changed.trainable, wanted.trainable, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_that_is_not_finite_changes_nothing_but_the_counters(accumulate):
    good = np.ones((4, 2, 4))
    bad = np.ones((1, 2, 4))
    bad[0, 1, 2] = np.nan
    seen, metrics = run([*good[:1], *bad, *good[1:]], accumulate=accumulate)
    plain, _ = run(good, accumulate=accumulate)
    assert int(seen[-1].step) == 5 and int(metrics["skipped"]) == 1 and int(plain[-1].skipped) == 0
    np.testing.assert_array_equal(kernels(seen)[-1], kernels(plain)[-1])
    chex.assert_trees_all_equal(seen[2].optimizer, seen[1].optimizer)


def test_the_norm_that_clips_is_of_the_trainable_half():
    """Adam forgets the scale of a gradient, so the first moment shows what was clipped."""
    batch = np.full((1, 1, 4), 100.0)
    free, metrics = run(batch)
    clipped, same = run(batch, clip_norm=1.0)
    norm = float(metrics["gradient_norm"])
    assert norm > 1 and float(same["gradient_norm"]) == pytest.approx(norm)
    moment = lambda seen: optax.tree.norm([x for x in jax.tree.leaves(seen[-1].optimizer) if x.ndim and x.shape == (4,)][:1])
    assert float(moment(free) / moment(clipped)) == pytest.approx(norm, rel=1e-4)


def test_a_moving_average_is_what_is_evaluated():
    rows = np.random.default_rng(0).normal(size=(30, 1, 4)) * 10
    seen, _ = run(rows, average=0.9)
    plain, _ = run(rows)
    wanted = kernels(seen)[0]
    for n, kernel in enumerate(kernels(seen)[1:]):
        share = min(0.9, (1 + n) / (10 + n))
        wanted = share * wanted + (1 - share) * kernel
    np.testing.assert_allclose(seen[-1].average["head"]["kernel"], wanted, rtol=1e-5)
    np.testing.assert_array_equal(seen[-1].params["head"]["kernel"], seen[-1].average["head"]["kernel"])
    np.testing.assert_array_equal(kernels(seen)[-1], kernels(plain)[-1])
    assert plain[-1].average == {} and np.abs(wanted - kernels(seen)[-1]).max() > 0.01


def test_the_frozen_half_is_kept_in_its_type_and_never_changes():
    seen, _ = run(np.ones((3, 1, 4)), frozen_type="bfloat16")
    for each in seen:
        assert each.frozen["frozen"]["base"].dtype == jnp.bfloat16 and each.trainable["head"]["kernel"].dtype == jnp.float32
        np.testing.assert_array_equal(each.frozen["frozen"]["base"], seen[0].frozen["frozen"]["base"])
    assert not np.array_equal(kernels(seen)[0], kernels(seen)[-1])


def test_moments_and_averages_lie_beside_their_parameter():
    boxed = {
        "frozen": {"base": jnp.zeros(8)},
        "head": {"kernel": nn.LogicallyPartitioned(jnp.zeros((16, 8)), axes.check(("embed", "mlp")))},
    }
    placed = placement.make("fsdp")
    placed = placement.Placement(placed.preset, placed.mesh, placed.rules, min_size=0)
    plain = nn.unbox(boxed)
    tx = param_groups.optimizer(param_groups.split(plain, TABLE)[0], TABLE, lambda _: RATE)
    made = jax.eval_shape(lambda: state.create(plain, TABLE, tx, 0, averaged=True))
    where = state.shardings(made, placement.shardings(boxed, placed), TABLE, tx, placed.replicated)
    assert jax.tree.structure(where) == jax.tree.structure(made)
    split = [at.spec for leaf, at in zip(jax.tree.leaves(made), jax.tree.leaves(where), strict=True) if leaf.shape == (16, 8)]
    assert len(split) == 4  # parameter, average and two moments
    assert {str(spec) for spec in split} == {str(jax.P("fsdp"))}
    others = [at for leaf, at in zip(jax.tree.leaves(made), jax.tree.leaves(where), strict=True) if leaf.shape != (16, 8)]
    assert all(at.is_fully_replicated for at in others)
