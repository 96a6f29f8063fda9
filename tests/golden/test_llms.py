"""Phi and the spliced token stream against the published system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from case_model import CaseModel, layout_from_case
from golden_case import subsample
from import_weights import abstract_params, channels_last, import_params

from hyperseg_jax.connectors import projector
from hyperseg_jax.encoders import siglip
from hyperseg_jax.llms import phi
from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.llms.splice import splice
from hyperseg_jax.structs import Source, TokenStream
from hyperseg_jax.systems.psalm.markers import PromptTokens, TokenCounts, expand_to_runs
from hyperseg_jax.systems.psalm.writer import make_writer
from hyperseg_jax.tables import Identity, Row, Table
from hyperseg_jax.text.layout import expand_runs


def build_phi(config):
    return phi.Phi(
        config["vocab_size"],
        config["hidden_size"],
        config["intermediate_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["partial_rotary_factor"],
        config.get("rope_theta", 10000.0),
        config.get("layer_norm_eps", 1e-5),
    )


@pytest.mark.golden("hyperseg", r"phi_.*")
def test_phi(case):
    model = build_phi(case.config)
    embeddings = case.inputs["inputs_embeds"]
    mask = case.inputs["attention_mask"] > 0
    positions = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape)
    stream = TokenStream(embeddings, positions, mask, np.full(mask.shape, Source.TEXT, np.int32))
    params = import_params(case.weights, llm=(abstract_params(model, stream), phi.table(model), "model."))
    last, hidden = jax.jit(lambda p, s: model.apply({"params": p}, s, all_hidden=True))(params["llm"], stream)
    for i, state in enumerate(hidden):
        case.compare(f"hidden_states_{i}", state)
    case.compare("last_hidden_state", last)
    case.check()


@pytest.mark.golden("hyperseg", r"layout_.*")
def test_layout_and_splice(case):
    vision, width = case.config["siglip"], case.config["llm"]["hidden_size"]
    tower = siglip.Siglip(
        vision["image_size"],
        vision["patch_size"],
        vision["hidden_size"],
        vision["intermediate_size"],
        vision["num_hidden_layers"],
        vision["num_attention_heads"],
        feature_layer=vision["mm_vision_select_layer"],
        keep_unused=True,
    )
    connector = projector.Projector(width)
    image = channels_last(case.inputs["image_clip"])
    feature = np.zeros((1, tower.num_tokens, tower.hidden_size), np.float32)
    weights = case.weights
    tensors = {"queries": "seg_query", "tokens": "model.embed_tokens.weight"}
    params = import_params(
        weights,
        tower=(abstract_params(tower, image), siglip.table(tower), "model.vision_tower."),
        connector=(abstract_params(connector, feature), projector.table(connector), "model.mm_projector."),
        llm=(
            {path: weights[name] for path, name in tensors.items()},
            Table(Row(path, name, Identity()) for path, name in tensors.items()),
            "",
        ),
    )

    fine_grained = case.inputs["temporal_tokens"]
    queries = params["llm"]["queries"]
    counts = TokenCounts(tower.num_tokens, fine_grained.shape[1], len(queries))
    length = case.outputs["labels"].shape[1]
    padding = case.config["llm"]["vocab_size"] - 1  # the end-of-text token also pads and is always masked
    layouts = []
    for b, (ids, labels) in enumerate(zip(case.inputs["input_ids"], case.inputs["labels"], strict=True)):
        tokens = PromptTokens(
            tuple(ids.tolist()),
            tuple(labels.tolist()),
            tuple((ids != padding).tolist()),
            expression=tuple(case.inputs[f"token_refer_id_{b}"].tolist()) if f"token_refer_id_{b}" in case.inputs else (),
        )
        layouts.append(expand_runs(expand_to_runs(tokens, counts), length))
    layout = jax.tree.map(lambda *rows: np.stack(rows), *layouts)

    @jax.jit
    def run(params, image, layout, fine_grained):
        feature = tower.apply({"params": params["tower"]}, image)
        tokens = connector.apply({"params": params["connector"]}, feature)
        text = jnp.take(params["llm"]["tokens"], layout.text_ids, axis=0)
        banks = {Source.IMAGE: tokens, Source.QUERY: params["llm"]["queries"]}
        if fine_grained is not None:
            banks[Source.RESAMPLED] = fine_grained
        return tokens, splice(layout, text, banks)

    tokens, stream = run(params, image, layout, fine_grained)
    case.compare("labels", layout.labels)
    case.compare("attention_mask", stream.mask)
    case.compare("refer_indices", layout.segment)
    case.compare("seg_query_mask", stream.source == Source.QUERY)
    case.compare("temporal_mask", stream.source == Source.RESAMPLED)
    case.compare("image_tokens", tokens)
    case.compare("inputs_embeds", stream.embeddings)
    case.check()


@pytest.mark.golden("hyperseg", r"text_.*")
def test_conversation(case):
    """Logits of a conversation about an image, and the generated answer."""
    model = CaseModel(case)
    ids = case.inputs["input_ids"]
    written = case.outputs["generated_ids"][:, ids.shape[1] :]
    layout, _ = layout_from_case(case, model.counts, case.outputs["logits_first_vocab"].shape[1])
    image = channels_last(case.inputs["image_clip"])

    @jax.jit
    def read_logits(params):
        logits = lambda model: model.language_head(model.llm(model.question_stream(model.image_tokens(image), layout)))
        return model.model.apply({"params": params}, method=logits)

    logits, vocab_size = read_logits(model.params), case.config["llm"]["vocab_size"]
    case.compare("logits_first_vocab", logits[..., :vocab_size])
    last = case.outputs["logits_last_position_every_16th"]
    case.compare("logits_last_position_every_16th", subsample(logits[:, -1], last.shape))
    case.compare("logits_argmax_full", logits.argmax(-1))
    batch = {"clip_images": (image[:, None] + 1) * 127.5, "layout": vars(layout), "valid": np.zeros((len(image), 1, 0))}
    written_by = make_writer(model.model, model.config)
    decoding = Decoding(max_new_tokens=written.shape[1], eos_id=vocab_size - 1, vocab_size=vocab_size)
    seeds = np.zeros(len(image), np.uint32)
    answer = jax.jit(lambda params: written_by.write(params, batch, {}, seeds, decoding))(model.params)
    case.compare("generated_ids", np.concatenate([ids, answer[:, 0, 0]], 1))
    case.check()
