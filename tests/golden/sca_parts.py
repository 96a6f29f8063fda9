"""SCA's parts with the sizes of a golden case."""

import numpy as np

from hyperseg_jax.connectors import caption_mixer
from hyperseg_jax.decoders import sam, sam_prompts
from hyperseg_jax.encoders import sam_vit
from hyperseg_jax.layers.two_way import TwoWayTransformer
from hyperseg_jax.llms import hub
from hyperseg_jax.llms.gpt2 import GPT2
from hyperseg_jax.llms.llama import Llama
from hyperseg_jax.systems.sam import model as sam_model
from hyperseg_jax.systems.sam.model import Sam
from hyperseg_jax.systems.sca.model import Sca

TASKS = ("recognition", "caption")


def make_encoder(c):
    v = c["vision"]
    names = ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "window_size")
    ratio = v["mlp_dim"] / v["hidden_size"]
    vit = sam_vit.SamVit(*(v[name] for name in names), tuple(v["global_attn_indexes"]), ratio)
    return sam_vit.SamEncoder(vit, sam_vit.SamNeck(v["output_channels"]))


def make_prompt_encoder(c):
    p = c["prompt_encoder"]
    return sam_prompts.SamPromptEncoder(p["image_size"], p["hidden_size"], p["mask_input_channels"])


def make_transformer(c, layers):
    d = c["mask_caption_decoder"]
    return TwoWayTransformer(d[layers], d["num_attention_heads"], d["mlp_dim"], d["attention_downsample_rate"], collect=True)


def make_decoder(c):
    d = c["mask_caption_decoder"]
    sizes = (d["hidden_size"], d["num_multimask_outputs"], d["iou_head_hidden_dim"], d["iou_head_depth"])
    return sam.SamDecoder(make_transformer(c, "num_hidden_layers"), *sizes)


def make_mixer(c):
    d = c["mask_caption_decoder"]
    queries = d["num_caption_tokens"] * d["num_caption_heads"]
    return caption_mixer.CaptionMixer(make_transformer(c, "additional_num_hidden_layers"), queries)


def make_prefix(c, features):
    return caption_mixer.CaptionPrefix(features, c["num_task_tokens"], 2, c["mask_caption_decoder"]["num_caption_heads"])


def read_prompts(inputs, points="input_points", labels="input_labels", boxes="input_boxes", masks="input_masks"):
    """Returns the SamPrompts of recorded inputs: points, then boxes. Points without boxes get a padding point."""
    places, kinds = [], []
    if points in inputs:
        places.append(inputs[points])
        kinds.append(inputs[labels] if labels in inputs else np.ones(inputs[points].shape[:3], np.int32))
        if boxes not in inputs:
            places.append(np.zeros_like(inputs[points][:, :, :1]))
            kinds.append(np.full((*inputs[points].shape[:2], 1), sam_prompts.NO_POINT))
    if boxes in inputs:
        shape = inputs[boxes].shape[:2]
        places.append(inputs[boxes].reshape(*shape, 2, 2))
        kinds.append(np.broadcast_to([sam_prompts.TOP_LEFT, sam_prompts.BOTTOM_RIGHT], (*shape, 2)))
    kinds = np.concatenate(kinds, axis=2).astype(np.int32)
    return sam_prompts.SamPrompts(np.concatenate(places, axis=2).astype(np.float32), kinds, inputs.get(masks))


def make_llm(c):
    m = c["language_model"]
    if m["model_type"] == "gpt2":
        inner = m["n_inner"] or 4 * m["n_embd"]
        sizes = (m["vocab_size"], m["n_embd"], inner, m["n_layer"], m["n_head"], m["n_positions"], m["layer_norm_epsilon"])
        return GPT2(*sizes, dropout=m["resid_pdrop"])
    sizes = (m["vocab_size"], m["hidden_size"], m["intermediate_size"], m["num_hidden_layers"], m["num_attention_heads"])
    return Llama(*sizes, m.get("num_key_value_heads"), m.get("rope_theta", 10000.0), m["rms_norm_eps"])


def make_model(c):
    llm = make_llm(c)
    parts = Sam(make_encoder(c), make_prompt_encoder(c), make_decoder(c))
    return Sca(parts, make_mixer(c), make_prefix(c, llm.hidden_size), llm, "raw" if "Split" in c["class"] else "decoded")


def model_table(model):
    rows = sam_model.table(model.sam).with_prefix("sam/") + caption_mixer.prefix_table(model.prefix).with_prefix("prefix/")
    rows += caption_mixer.table(model.mixer).with_prefix("mixer/", "mask_decoder.")
    return rows + hub.weight_table(model.llm, with_head=True).with_prefix("llm/", "language_model.")
