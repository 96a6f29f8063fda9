"""The language models of SCA alone, and their generated texts: packed inputs and prefixes are those that were recorded."""

import jax
import numpy as np
import pytest
from import_weights import abstract_params, import_params

from hyperseg_jax.llms import gpt2, llama
from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.llms.generate import Writer
from hyperseg_jax.structs import TokenStream

PREFIX = "language_model."
DEFAULT = {"max_length": 20, "num_beams": 1, "length_penalty": 1.0}
"""Options of transformers' generate where a run has none."""


def load_model(case):
    """Returns the language model of a case and its parameters."""
    settings = case.config["language_model"]
    kind = {"gpt2": gpt2, "llama": llama}[settings["model_type"]]
    model = kind.from_hub(settings)
    weights = {name.removeprefix(PREFIX): value for name, value in case.weights.items() if name.startswith(PREFIX)}
    shapes = abstract_params(model, TokenStream.of_text(np.zeros((1, 2, model.hidden_size), np.float32)))
    return model, import_params(weights, llm=(shapes, kind.table(model, with_head=True), ""))["llm"]


@pytest.mark.golden("sca", r"(end_to_end|grad)_.*")
def test_logits_of_packed_inputs(case):
    model, params = load_model(case)
    inputs, prefix = case.outputs["lm_inputs_embeds"], case.outputs["lm_prefix"]
    ids, mask = (case.inputs[name].reshape(len(prefix), -1) for name in ("input_ids", "attention_mask"))

    @jax.jit
    def run(params, ids, inputs, mask):
        hidden = model.apply({"params": params}, TokenStream.of_text(inputs, mask))
        apply = lambda value, method: model.apply({"params": params}, value, method=method)
        return apply(ids, "embed"), apply(hidden, "logits")

    embedded, logits = run(params, ids.astype(np.int32), inputs, case.outputs["lm_attention_mask"] > 0)
    case.compare("lm_attention_mask", np.concatenate([np.ones(prefix.shape[:2], np.int32), mask], axis=1))
    case.compare("lm_inputs_embeds", np.concatenate([prefix, embedded], axis=1))
    case.compare("lm_full_logits", logits)
    case.compare("logits", logits[:, -ids.shape[1] - 1 :])
    compared = {name for name, *_ in case.rows}
    case.check(skipped=case.outputs.keys() - compared)


def make_writer(model):
    """Returns the Writer of texts after the embeddings [B, P, L, D] of each region."""
    apply = model.apply

    def prepare(params, prefix, features):
        return prefix.reshape(-1, *prefix.shape[2:]), (1, prefix.shape[1])

    def begin(params, prefix, empty_slots):
        return apply({"params": params}, prefix, empty_slots, method="begin_text")

    def step(params, ids, number, cache):
        return apply({"params": params}, ids, cache, method="continue_text")

    return Writer(prepare, begin, step)


def read_prefixes(case):
    """Returns the embeddings before the texts [B, P, L, D]: task tokens, then the projected caption tokens."""
    regions, weights = case.outputs["query_logits"], case.weights
    batch, count = regions.shape[:2]
    caption = case.config["mask_caption_decoder"]["num_caption_tokens"]
    tokens = (
        regions.reshape(batch, count, caption, -1) @ weights["language_project.weight"].T + weights["language_project.bias"]
    )
    first = np.array([{"recognition": 0, "caption": 1}[task] for task in case.meta["task_type"]])
    tasks = weights["task_tokens.weight"].reshape(2, case.config["num_task_tokens"], -1)[first]
    return np.concatenate([np.broadcast_to(tasks[:, None], (batch, count, *tasks.shape[1:])), tokens], axis=2)


def as_sequences(written, settings):
    """Returns texts [B, 1, P, N] as transformers returns them, [B, P, 1, T]: after one BOS, cut to the longest of all chunks,
    and with the padding id after the end."""
    end, padding = settings["eos_token_id"], settings.get("pad_token_id")
    ended = np.cumsum(written == end, axis=-1) - (written == end) > 0
    padded = np.where(ended, end if padding is None else padding, written)
    sequences = np.concatenate([np.full_like(padded[..., :1], settings["bos_token_id"]), padded], axis=-1)
    return np.moveaxis(sequences, 1, 2)


@pytest.mark.golden("sca", r"generate_.*")
def test_generated_texts(case):
    model, params = load_model(case)
    writer, prefixes, settings = make_writer(model), read_prefixes(case), case.config["language_model"]
    write = jax.jit(lambda params, prefixes, seeds, decoding: writer.write(params, prefixes, {}, seeds, decoding))
    seeds = np.zeros(len(prefixes), np.uint32)
    for name, given in case.meta["generate"].items():
        options = DEFAULT | given
        decoding = Decoding(
            "beams" if options["num_beams"] > 1 else "greedy",
            options["max_length"] - 1,
            beams=options["num_beams"],
            length_penalty=options["length_penalty"],
            chunk=options.get("generate_chunk_size", 8),
            eos_id=settings["eos_token_id"],
            vocab_size=settings["vocab_size"],
        )
        sequences = as_sequences(np.asarray(write(params, prefixes, seeds, decoding)), settings)
        expected = case.outputs[f"{name}.sequences"]
        cut = expected.shape[-1]
        assert (sequences[..., cut:] == sequences[..., -1:]).all()
        case.compare(f"{name}.sequences", sequences[..., :cut])
    compared = {name for name, *_ in case.rows}
    case.check(skipped=case.outputs.keys() - compared)
