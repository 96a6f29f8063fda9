"""The whole of HyperSeg from token ids and pixels to scores and post-processed masks."""

import jax
import ml_collections
import numpy as np
import pytest
from imported import channels_last

from hyperseg_jax.data.transforms import Geometry
from hyperseg_jax.llms.splice import Source
from hyperseg_jax.results import answers
from hyperseg_jax.systems import hyperseg
from hyperseg_jax.text.layout import TokenCounts, expand
from hyperseg_jax.text.prompts import Marker, PromptTokens


def config_of(case):
    """Our config of a case's dimensions."""
    llm, tower, vision = (case.config[part] for part in ("llm", "siglip", "vision"))
    swin = vision["swin"]
    heads = case.rows_of_head
    return ml_collections.ConfigDict({
        "model": {
            "precision": {}, "num_queries": vision["Q"], "query_std": 0.0, "head_vocab_size": heads,
            "lora": {"rank": 0, "targets": ()},
            "clip_encoder": {"image_size": tower["image_size"], "patch_size": tower["patch_size"],
                             "hidden_size": tower["hidden_size"], "mlp_size": tower["intermediate_size"],
                             "num_layers": tower["num_hidden_layers"], "num_heads": tower["num_attention_heads"],
                             "feature_layer": tower["mm_vision_select_layer"], "keep_unused": True},
            "mask_encoder": {"hidden_size": swin["embed_dim"], "depths": tuple(swin["depths"]),
                             "num_heads": tuple(swin["num_heads"]), "window": swin["window_size"]},
            "perceiver": {"hidden_size": vision["fvp_dim"], "num_queries": vision["fvp_q"], "num_heads": vision["fvp_heads"],
                          "head_dim": vision["fvp_dim_head"]},
            "llm": {"vocab_size": llm["vocab_size"], "hidden_size": llm["hidden_size"], "mlp_size": llm["intermediate_size"],
                    "num_layers": llm["num_hidden_layers"], "num_heads": llm["num_attention_heads"],
                    "rotary_fraction": llm["partial_rotary_factor"]},
            "pixel_decoder": {"conv_dim": vision["conv"], "mask_dim": vision["mask"], "num_heads": vision["heads"],
                              "feedforward_dim": vision["enc_ffn"], "num_layers": vision["enc_layers"]},
            "mask_decoder": {"hidden_size": vision["conv"], "mask_dim": vision["mask"], "num_heads": vision["heads"],
                             "feedforward_dim": vision["ffn"], "num_layers": vision["dec_layers"], "num_queries": vision["Q"],
                             "keep_unused": True},
        },
        "data": {"image_size": 64, "template": "v0"},
    })  # fmt: skip


def layout_of(case, counts):
    """The layout of the case's ids; class names come as one run of ids with the number (from 0) of each id's class."""
    read, ids = case.inputs, case.inputs["input_ids"][0]
    classes = ()
    if "cls_indices" in read:
        names, numbers = read["class_name_ids"][0], read["cls_indices"][0]
        classes = tuple(tuple(names[numbers == k].tolist()) for k in range(int((ids == Marker.CLS).sum())))
    tokens = PromptTokens(
        ids=tuple(ids.tolist()), labels=tuple(ids.tolist()), mask=(True,) * len(ids), classes=classes,
        expression=tuple(read["token_refer_id"].tolist()) if "token_refer_id" in read else (),
        num_regions=int((ids == Marker.REGION).sum()))  # fmt: skip
    length = next(v.shape[1] for k, v in case.outputs.items() if k.endswith("layout_labels"))
    return jax.tree.map(lambda x: x[None], expand(tokens, counts, length)), len(classes)


@pytest.mark.golden("hyperseg", r"e2e_.*_tiny.*")
def test_end_to_end(case):
    weights = case.weights
    case.rows_of_head = weights["lm_head.weight"].shape[0] if "lm_head.weight" in weights else 8
    config = config_of(case)
    model = hyperseg.build(config)
    expected = jax.eval_shape(lambda: hyperseg.SYSTEM.init_plain(model, config, jax.random.key(0)))
    fresh = () if "lm_head.weight" in weights else (r"language_head/kernel",)
    params = hyperseg.weight_table(config).to_flax(weights, expected, fresh=fresh)
    if fresh:
        params["language_head"] = {"kernel": np.zeros(expected["language_head"]["kernel"].shape, np.float32)}
    counts = TokenCounts(model.clip_encoder.num_tokens, model.perceiver.num_queries, model.num_queries)
    layout, classes = layout_of(case, counts)
    regions, points = case.inputs.get("region_masks"), case.outputs.get("region_points_yx")

    @jax.jit
    def run(params, image, clip_image, query):
        return model.apply(
            {"params": params}, image, clip_image, layout, num_classes=classes, fine_grained_query=query,
            regions=None if regions is None else regions[None, None] > 0,
            region_points=None if points is None else points[None, None, ..., ::-1])  # fmt: skip

    query = None
    frames = [number for number in ("", "0", "1") if f"image{number}" in case.inputs]
    for frame in frames:
        made = run(params, channels_last(case.inputs[f"image{frame}"]), channels_last(case.inputs[f"image_clip{frame}"]), query)
        query = made.next_query
        compare(case, f"frame{frame}_" if frame else "", made, layout)
    case.done()


def compare(case, prefix, made, layout):
    """Every stored tensor of one frame."""
    inside, prediction = made.inside, made.prediction
    final = {"expression": prediction.scores.get("expression"), "class": prediction.scores.get("class")}
    direct = {
        "image_tokens": inside["picture"], "fvp_tokens": inside["fine_grained"], "inputs_embeds": inside["stream"],
        "llm_last_hidden_state": made.hidden, "next_temporal_query": made.next_query,
        "seg_query_projected": inside["queries"][:, 0], "SEG_embedding": inside["expression"],
        "class_name_embedding": inside["class"][:, 0] if "class" in inside else None,
        "region_embedding": inside["region"][0, 0] if "region" in inside else None,
        "pred_SEG_logits": final["expression"][..., None], "pred_class_name_logits": final["class"],
        "pred_region_logits": prediction.scores["region"][0].T if "region" in prediction.scores else None,
        "pred_boxes": prediction.boxes, "hs": prediction.embeddings["query"], "reid_embed_of_hs": prediction.embeddings["reid"],
        "layout_labels": layout.labels, "layout_seg_query_mask": layout.source == Source.QUERY,
        "layout_temporal_mask": layout.source == Source.FINE_GRAINED, "layout_attention_mask": layout.mask,
        "layout_refer_indices": layout.source == Source.EXPRESSION, "layout_region_mask": layout.source == Source.REGION,
        "layout_class_name_indices": np.where(layout.source == Source.CLASS, layout.segment, 0),
    }  # fmt: skip
    post = None
    if f"{prefix}post_mask_logits" in case.outputs or f"{prefix}post_mask_binary_packedbits" in case.outputs:
        valid = ~case.inputs["padding_mask"].astype(bool)
        filled = (int(valid.any(1).sum()), int(valid.any(0).sum()))
        geometry = Geometry(tuple(case.inputs["out_hw"].tolist()), filled, valid.shape)
        post = answers.to_original(np.asarray(prediction.mask_logits[0]), geometry)
    for name in case.outputs:
        if not name.startswith(prefix):
            continue
        what, _, step = name.removeprefix(prefix).partition("::")
        what, axis = (what[:-2], 1) if what.endswith("_q") else (what, -1)
        step = int(step or 1)
        if what in direct:
            case.compare(name, _every(direct[what], step, axis))
        elif what == "pred_masks":
            case.compare(name, prediction.mask_logits[:, ::step])
        elif what.endswith("_stats"):
            array = inside["mask_features"] if what.startswith("mask_features") else prediction.mask_logits
            case.compare(name, np.array([f(np.asarray(array)) for f in (np.mean, np.std, np.min, np.max)], np.float32))
        elif what.startswith("attn_mask"):
            layer = int(what.split("_")[2])
            blocked = np.asarray(prediction.stages[layer]["attention_mask"])
            case.compare(name, np.packbits(blocked, -1))
        elif what == "post_mask_logits":
            case.compare(name, post[::step])
        elif what == "post_mask_binary_packedbits":
            case.compare(name, np.packbits(post > 0, -1))
        elif what in ("scores_by_query", "best_query", "best_mask"):
            scores = answers.sigmoid(np.asarray(final["expression"][0])) * answers.mask_scores(post)
            best = int(scores.argmax())
            ours = {"scores_by_query": scores, "best_query": np.array([best], np.int32), "best_mask": post[best] > 0}
            case.compare(name, ours[what])
        elif what == "completed_region_scores":
            scores = answers.sigmoid(np.asarray(prediction.scores["region"][0])) * answers.mask_scores(post)[:, None]
            case.compare(name, scores)
        elif not what.startswith(("completed_", "region_points")):
            raise AssertionError(f"{case.name}: nothing of ours answers to {name}")


def _every(array, step, axis):
    return np.take(np.asarray(array), np.arange(0, array.shape[axis], step), axis=axis) if step > 1 else array
