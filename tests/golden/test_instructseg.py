"""InstructSeg end to end against the published system."""

import jax
import numpy as np
import pytest
from golden_case import subsample
from instructseg_model import CaseInputs, import_case

from hyperseg_jax.structs import Source


@pytest.mark.golden("instructseg", r"e2e_eval_.*")
def test_instructseg_evaluation(case):
    model, params, _ = import_case(case)
    inputs = CaseInputs(case, model.clip_encoder.num_tokens)
    run = jax.jit(
        lambda params: model.apply(
            {"params": params},
            inputs.images,
            inputs.clip,
            inputs.references,
            inputs.layout,
            inputs.expression,
            inputs.expression_valid,
        )
    )
    result = jax.device_get(run(params))
    compare_forward(case, inputs, result)
    case.check(
        skipped=[
            name
            for name in case.outputs
            if name.startswith(
                (
                    "stats/",
                    "swin/",
                    "clip_tokens",
                    "pixel_decoder/scale",
                    "best",
                    "top5",
                    "scores",
                    "class_scores",
                    "mask_area",
                    "query_index",
                    "pred_masks/best",
                )
            )
        ]
    )


def compare_forward(case, inputs, result):
    """Compares the token stream, the intermediates and the predictions of all stages."""
    layout, inside = inputs.layout, result.inside
    case.compare("attention_mask", layout.mask)
    case.compare("labels_expanded", layout.labels)
    case.compare("refer_indices_expanded", (layout.source == Source.EXPRESSION))
    case.compare("seg_query_mask", (layout.source == Source.QUERY))
    channels_first = lambda x: np.moveaxis(x, -1, 1)
    ours = {
        "inputs_embeds": inside["stream"],
        "hidden": result.hidden,
        "ovp_out": inside["reference_tokens"][:, 0],
        "local_vision": channels_first(inside["local"]),
        "vmtf_text_in": inside["latents"],
        "vmtf_out": inside["fused"],
        "SEG_concat": inside["fusion"],
        "SEG_projected": inside["expression"],
        "seg_query_projected": inside["queries"][:, 0],
        "pixel_decoder/mask_features": channels_first(inside["mask_features"]),
        "pred_masks/final": result.prediction.mask_logits,
        "pred_SEG_logits/final": result.prediction.scores["expression"][..., None],
    }
    for i, stage in enumerate(result.prediction.stages):
        ours[f"pred_masks/aux{i}"] = stage["mask_logits"]
        ours[f"pred_SEG_logits/aux{i}"] = stage["scores"]["expression"][..., None]
    for name, value in ours.items():
        if name in case.outputs:
            case.compare(name, subsample(np.asarray(value), case.outputs[name].shape))
        elif f"{name}/call0" in case.outputs:  # one call for each row, of its own length
            for row in range(len(value)):
                expected = case.outputs[f"{name}/call{row}"]
                part = value[row][: expected.shape[1]] if value.ndim == 3 else value[row]
                case.compare(f"{name}/call{row}", part.reshape(expected.shape))
