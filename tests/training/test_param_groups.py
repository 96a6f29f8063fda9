"""An ordered regex table selects frozen parameters, learning rates and weight decay."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from plain_step import make_plain_step

from hyperseg_jax.errors import UserError
from hyperseg_jax.tables import flatten
from hyperseg_jax.training import param_groups
from hyperseg_jax.training.param_groups import ParamGroup
from hyperseg_jax.training.state import create_state

RULES = (
    ParamGroup(r".*/lora_[ab]"),
    ParamGroup("llm/.*", rate=0),
    ParamGroup("head/.*", rate=0.5, decay=0.1),
    ParamGroup(".*"),
)


def make_params():
    ones = jnp.ones((2, 2))
    return {"llm": {"q": {"kernel": ones, "lora_a": ones}}, "head": {"kernel": ones}, "other": {"kernel": ones}}


def test_split_and_merge_are_inverse():
    trainable, frozen = param_groups.split_params(make_params(), RULES)
    assert set(flatten(frozen)) == {"llm/q/kernel"}
    assert flatten(param_groups.merge_params(trainable, frozen)).keys() == flatten(make_params()).keys()


def test_every_parameter_needs_a_rule():
    with pytest.raises(UserError, match="other/kernel"):
        param_groups.assign_groups(flatten(make_params()), RULES[:3])


def run(loss, steps=1, rules=RULES):
    tx = param_groups.optimizer(
        param_groups.split_params(make_params(), rules)[0], rules, optax.constant_schedule(0.1), clip_norm=None
    )
    state = create_state(make_params(), rules, tx, seed=0)
    step = jax.jit(make_plain_step(loss, tx))
    for k in range(steps):
        state, metrics = step(state, {"k": jnp.float32(k), "bad": jnp.zeros(1, bool)})
    return state, metrics


def squared_loss(tree, batch, key, counts):
    total = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree))
    return total, {}


def test_rates_decay_and_freezing():
    state, _ = run(squared_loss)
    moved = {path: float(jnp.abs(leaf - 1).mean()) for path, leaf in flatten(state.params).items()}
    assert moved["llm/q/kernel"] == 0
    assert moved["llm/q/lora_a"] == pytest.approx(0.1, rel=1e-3)
    assert moved["head/kernel"] == pytest.approx(0.05 + 0.05 * 0.1, rel=1e-3)
    assert not any("llm/q/kernel" in path for path in map(str, flatten({"o": state.trainable})))


def test_a_non_finite_batch_changes_nothing():
    bad = lambda tree, batch, *rest: (squared_loss(tree, batch, *rest)[0] * jnp.where(batch["k"] == 1, jnp.nan, 1.0), {})
    full, _ = run(bad, steps=3)
    fine, _ = run(squared_loss, steps=2)
    assert int(full.skipped) == 1 and int(full.step) == 3
    np.testing.assert_array_equal(full.trainable["other"]["kernel"], fine.trainable["other"]["kernel"])


def test_schedule_warms_up_and_falls():
    rate = param_groups.schedule(1e-3, 10, 100, final=0.1)
    assert float(rate(0)) == 0 and float(rate(10)) == pytest.approx(1e-3) and float(rate(100)) == pytest.approx(1e-4)


def test_the_rate_drops_at_shares_of_the_run():
    config = ml_collections.ConfigDict({"train": {"steps": 1000}, "optimizer": {"learning_rate": 1e-2, "final_rate": 0.0}})
    config.optimizer.update({"warmup_steps": 0, "drops": (0.5, 0.8)})
    for warmup in (0, 100):
        config.optimizer.warmup_steps = warmup
        rate = param_groups.schedule_from_config(config)
        np.testing.assert_allclose(
            [rate(k) for k in (warmup, 499, 501, 799, 801, 999)], [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4], rtol=1e-5
        )
    assert rate(0) == 0 and 0 < rate(50) < 1e-2
    config.optimizer.drops = ()
    assert 0 < param_groups.schedule_from_config(config)(700) < 5e-3
