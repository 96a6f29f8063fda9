"""IFSeg's loss, its gradients and its optimizer against the published system."""

import ifseg_parts
import jax
import numpy as np
import optax
import pytest

from hyperseg_jax.ops.sampling import resize_bilinear
from hyperseg_jax.systems.ifseg import model as ifseg
from hyperseg_jax.systems.ifseg import objective
from hyperseg_jax.systems.ifseg.inputs import cells_of, classes_of
from hyperseg_jax.systems.ifseg.scores import cell_logits
from hyperseg_jax.training.param_groups import ParamGroup, optimizer, schedule

LINES = [0, 7, 8, 255, 511]
"""Rows of pixels whose logits are recorded, at every eighth column."""


def make_batch(case):
    """Returns the arrays of the processor for images of words."""
    words, size = ifseg_parts.class_words(case), len(case.inputs["src_tokens"])
    repeat = lambda array: np.broadcast_to(array, (size, *array.shape))
    return {
        "text": case.inputs["src_tokens"],
        "class_words": repeat(words),
        "class_of": repeat(np.arange(len(words), dtype=np.int32)),
        "cell_names": case.inputs["patch_ids"],
        "labels": case.inputs["target"].astype(np.int16),
        "bad": np.zeros(size, bool),
    }


@pytest.mark.golden("ifseg", r"imfree_loss.*")
def test_loss_and_gradients(case):
    model, params, _ = ifseg_parts.load_model(case)
    batch, config = make_batch(case), ifseg_parts.make_config(case)
    counts = objective.make_counts(model, config)(batch)
    loss = objective.make_loss(model, config)
    logits = jax.jit(lambda p: cell_logits(model, p, cells_of(model, p, batch), classes_of(batch)))(params)
    case.compare("logits", logits, case.outputs["logits"][:, :-1])
    side = int(np.sqrt(logits.shape[1]))
    pixels = resize_bilinear(np.asarray(logits).reshape(-1, side, side, logits.shape[-1]), batch["labels"].shape[1:])
    case.compare("upsampled_rows", np.asarray(pixels)[:, LINES, ::8])
    total, gradients = jax.jit(jax.value_and_grad(lambda p: loss(p, batch, jax.random.key(0), counts)[0]))(params)
    case.compare("loss", total[None])
    exported = ifseg.weight_table(config).to_torch(jax.tree.map(np.asarray, gradients))
    trained = {name: exported[name] for name in case.meta["grad_norm_names"]}
    norms = np.array([np.linalg.norm(gradient) for gradient in trained.values()])
    case.compare("grad_norms", norms, kind="gradient")
    case.compare("total_grad_norm", np.sqrt((norms**2).sum())[None], kind="gradient")
    for name in (name.removeprefix("grad.") for name in case.outputs if name.startswith("grad.")):
        case.compare(f"grad.{name}", trained[name], kind="gradient")
    case.check()


@pytest.mark.golden("ifseg", r"optimiser.*")
def test_optimizer(case):
    c = case.config
    rate = schedule(c["lr"], 0, c["total_updates"])
    # The published schedule begins again after the last update, in a step that no run has.
    of_run = case.outputs["lr_steps"] < c["total_updates"]
    ours = [rate(step) for step in case.outputs["lr_steps"][of_run]]
    case.compare("lr_values", ours, case.outputs["lr_values"][of_run])
    params = {name: case.inputs[name] for name in case.inputs if name.startswith("p")}
    updates = sorted({name[1:].split("_")[0] for name in case.inputs if name.startswith("g")}, key=int)
    group = ParamGroup(".*", decay=c["weight_decay"])
    tx = optimizer(params, [group], rate, betas=tuple(c["betas"]), clip_norm=c["clip_norm"])
    state = tx.init(params)
    for k in updates:
        gradients = {name: case.inputs[f"g{k}_{name[1:]}"] for name in params}
        case.compare(f"norm{k}", optax.tree.norm(gradients)[None])
        case.compare(f"lr{k}", [rate(int(k))])
        step, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, step)
        for name, value in params.items():
            case.compare(f"{name}_after{k}", value)
    case.check(skipped=["lr_steps"])
