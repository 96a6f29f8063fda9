"""InstructSeg's conversations, adapters and optimizer steps against the published system."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_case import subsample
from instructseg_model import ADAPTERS, CaseInputs, adapter_table, config_from_case, import_case
from test_instructseg import (
    LOSSES,
    RERUN_NOISE,
    STAGES,
    forward,
    frozen_paths,
    point_draws,
    stop_gradients,
    text_loss,
)
from test_losses import make_targets

from hyperseg_jax.losses import BalancedScores, MaskCriterion
from hyperseg_jax.tables import Table, flatten, unflatten
from hyperseg_jax.training.param_groups import ParamGroup, optimizer
from hyperseg_jax.weights.peft_adapter import merge_adapter

PEFT = "base_model.model."


def conversation(model, params, inputs):
    """Returns the hidden states, the loss and the token streams of conversations about images."""
    apply = lambda method: model.apply({"params": params}, method=method)
    stream = apply(lambda m: m.question_stream(m.image_tokens(inputs.clips[:, 0]), inputs.layout))
    hidden = apply(lambda m: m.llm(stream))
    return hidden, text_loss(model, params, hidden, inputs.layout), stream


@pytest.mark.golden("instructseg", r"e2e_train_mm_conv.*")
def test_conversation(case):
    """The text loss of conversations, and its gradients."""
    model, params, table = import_case(case)
    inputs = CaseInputs(case, model.clip_encoder.num_tokens)
    trained = case.meta["grad_norm_names"]
    frozen = frozen_paths(table, trained)

    def loss(params):
        params = stop_gradients(params, frozen)
        hidden, total, stream = conversation(model, params, inputs)
        return total, (hidden, stream)

    (total, (hidden, stream)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    layout = inputs.layout
    case.compare("attention_mask", layout.mask)
    case.compare("labels_expanded", layout.labels)
    case.compare("inputs_embeds", stream.embeddings)
    case.compare("hidden", np.asarray(hidden)[layout.mask], case.outputs["hidden"][layout.mask])
    logits = np.asarray(model.language_head.apply({"params": params["language_head"]}, hidden))
    compare_visible(case, "logits_logsumexp", jax.nn.logsumexp(logits, axis=-1), layout.mask)
    expected = case.outputs["logits_slice"]  # every third position, and the first words
    positions = subsample(layout.mask, expected.shape[:2])
    compare_visible(case, "logits_slice", subsample(logits[..., : expected.shape[2]], expected.shape), positions)
    case.compare("clip_tokens", model.apply({"params": params}, inputs.clips[:, 0], method="image_tokens"))
    for name in ("loss_total", "named/loss_llm"):
        case.compare(name, total.reshape(1))
    published = table.to_torch(gradient)
    case.compare("grad_norms", np.array([np.linalg.norm(published[name]) for name in trained]), kind="gradient")
    for name in (name for name in case.outputs if name.startswith("grad_slice/")):
        expected = case.outputs[name]
        part = published[name.removeprefix("grad_slice/")][: expected.shape[0], : expected.shape[1]]
        case.compare_gradient(name, part, rerun_noise=RERUN_NOISE)
    case.check(skipped=[name for name in case.outputs if name.startswith("stats/")])


def compare_visible(case, name, ours, mask):
    """Compares the values at visible positions; nothing depends on the others."""
    case.compare(name, np.asarray(ours)[mask], case.outputs[name][mask])


@pytest.mark.golden("instructseg", r"lora_mm_conv.*")
def test_adapters(case):
    """The loss with adapters, their gradients, and the merged weights."""
    lora = {"rank": case.config["r"], "alpha": float(case.config["alpha"]), "dropout": 0.0, "targets": ("query", "value")}
    model, params, table = import_case(case, **lora)
    adapters, inputs = adapter_table(config_from_case(case, **lora)), CaseInputs(case, model.clip_encoder.num_tokens)
    scale = case.config["scaling"]["default"]
    assert model.llm.lora.scale == scale
    flat = flatten(params)

    def loss(trained):
        hidden, total, _ = conversation(model, unflatten({**flat, **trained}), inputs)
        return total, hidden

    own = {path: x for path, x in flat.items() if re.fullmatch(ADAPTERS, path)}
    (total, hidden), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(own)
    mask = inputs.layout.mask
    case.compare("loss_total", total.reshape(1))
    compare_visible(case, "hidden", hidden, mask)
    for name, value in adapters.to_torch(unflatten(gradient)).items():
        recorded = name.removesuffix(".weight") + ".default.weight"
        case.compare(f"grad/{recorded}", value, kind="gradient")

    merged = dict(flat)
    for path in own:
        if path.endswith("lora_a"):
            kernel = path.removesuffix("lora_a") + "kernel"
            merged[kernel] = merge_adapter(flat[kernel], own[path], own[path.removesuffix("a") + "b"], scale)
            merged |= {path: np.zeros_like(own[path])}
    published = table.to_torch(unflatten({path: x for path, x in merged.items() if path not in own}))
    for name in case.outputs:
        if name.startswith("merged/"):
            case.compare(name, published[name.removeprefix("merged/")])
    hidden, total, _ = jax.jit(lambda params: conversation(model, params, inputs))(unflatten(merged))
    case.compare("loss_total_merged", total.reshape(1))
    compare_visible(case, "hidden_merged", hidden, mask)
    case.check()


@pytest.mark.golden("instructseg", r"train_4_steps.*")
def test_optimizer_steps(case):
    """Losses, gradient norms and changes of the parameters over steps of different tasks.

    In the case, a parameter without gradient in a step keeps its moments. Our loop updates it with a gradient of zero, as
    DeepSpeed does; so this test steps each parameter with an optimizer state of its own.
    """
    config = case.config
    lora = {"rank": config["r"], "alpha": float(config["alpha"]), "dropout": 0.0, "targets": ("query", "value")}
    model, params, table = import_case(case, **lora)
    adapters = adapter_table(config_from_case(case, **lora))
    trained = [name.replace(".default.", ".") for name in case.meta["trainable_names"]]
    adapted = {name for row in adapters for name in row.names}
    names = [name if name in adapted else name.removeprefix(PEFT) for name in trained]
    rows = [row for part in (table, adapters) for row in part if set(row.names) & set(names)]
    paths = [path for row in rows for path in row.paths]
    flat = flatten(params)
    start = {path: flat[path] for path in paths}
    groups = (ParamGroup(".*", 1.0, config["weight_decay"]),)
    alone = lambda path, value: unflatten({path: value})
    rate = lambda count: config["lr"]
    tx = {path: optimizer(alone(path, x), groups, rate, betas=config["betas"], clip_norm=None) for path, x in start.items()}
    states = {path: tx[path].init(alone(path, value)) for path, value in start.items()}
    current = dict(start)
    plan = [task for task, _ in config["plan"]]
    inputs = [CaseInputs(case, model.clip_encoder.num_tokens, f"step{k}/") for k in range(len(plan))]

    def losses_of(k, trained):
        """Returns the total of step k and its parts."""
        params = unflatten({**flat, **trained})
        if plan[k] == "mm_conv":
            _, text, _ = conversation(model, params, inputs[k])
            return text, {"loss_llm": text}
        targets = make_targets([case.inputs[f"step{k}/gt_masks"]], "expression")
        draws = point_draws(case.meta["draws_per_step"][k], 1, 1, [[np.array([0])]] * len(STAGES))
        criterion = MaskCriterion({"expression": BalancedScores()}, num_points=config["num_points"])
        result = forward(model, params, inputs[k])
        losses = criterion(result.prediction, targets, draws=draws)
        sums = {name: criterion.weights[kind] * losses.terms[kind].sum() for kind, name in LOSSES.items()}
        if plan[k] == "rvos":
            sums["loss_rvos_class"] = sums.pop("loss_SEG_class")
        text = text_loss(model, params, result.hidden, inputs[k].layout) if plan[k] == "reason_seg" else jnp.zeros(())
        return losses.total + text, {**sums, "loss_llm": text}

    for k in range(len(plan)):
        (total, parts), gradient = jax.jit(jax.value_and_grad(functools.partial(losses_of, k), has_aux=True))(current)
        case.compare(f"step{k}/loss", total.reshape(1))
        for name in ("loss_mask", "loss_dice", "loss_SEG_class", "loss_rvos_class", "loss_llm"):
            case.compare(f"step{k}/{name}", np.asarray(parts.get(name, 0.0), np.float32).reshape(1))
        case.compare(f"step{k}/grad_norm_all_trainable", optax.tree.norm(gradient).reshape(1), kind="gradient")
        for path, value in gradient.items():
            if np.any(value):
                before = alone(path, current[path])
                updates, states[path] = tx[path].update(alone(path, value), states[path], before)
                current[path] = flatten(optax.apply_updates(before, updates))[path]
    total, _ = jax.jit(functools.partial(losses_of, 0))(current)
    case.compare("after/loss_first_batch", total.reshape(1))

    change = unflatten({path: np.asarray(current[path]) - np.asarray(start[path]) for path in paths})
    published = Table(rows).to_torch(change)
    changes = [published[name] for name in names]
    floor = case.meta["tolerance"]["fp32_vs_fp64_abs"]["param_change_norm_max_rel"]
    relative = lambda ours, recorded: np.linalg.norm(ours - recorded) / max(np.linalg.norm(recorded), 1e-12)
    norms, recorded = np.array([np.linalg.norm(value) for value in changes]), case.outputs["param_change_norm"]
    worst = np.max(np.abs(norms - recorded) / np.maximum(recorded, 1e-12))
    case.rows.append(("param_change_norm", float(worst), 10 * floor))
    for name in (name for name in case.outputs if name.startswith("param_delta/")):
        expected = case.outputs[name]
        ours = changes[trained.index(name.removeprefix("param_delta/").replace(".default.", "."))]
        part = ours[: expected.shape[0], : expected.shape[1]]
        case.rows.append((name, float(relative(part, expected)), 10 * floor))
    case.check()
