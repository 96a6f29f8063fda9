"""The golden harness: sign tolerance, subsampled tensors and generated inputs."""

import json
import types

import numpy as np
import pytest
from case_answers import compute_answers
from golden_case import GoldenCase, recipe_normal, subsample

from hyperseg_jax.ops.transforms import Geometry


def make_case(tmp_path, outputs=None, **meta):
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    case = GoldenCase(tmp_path)
    case.outputs = outputs or {}
    return case


@pytest.mark.parametrize("sign", [1, -1])
def test_tolerated_sign_flips_use_the_sign_of_the_case(sign):
    """One pixel near zero changes a score by far more than rounding. Further from zero, a flip is an error of ours."""
    logits = np.array([[[3.0, 2.0, -4.0], [-1.0, sign * 1e-6, -2.0]]], np.float32)
    theirs = np.array([[[True, True, False], [False, sign < 0, False]]])
    scores = {"expression": np.array([1.0], np.float32), "class": np.array([[2.0, 0.0]], np.float32)}
    geometry = Geometry((2, 3), (2, 3), (2, 3))
    expected = 1 / (1 + np.exp(-1.0)) * (1 / (1 + np.exp(-logits.astype(float))))[theirs].mean()
    post_process = lambda *args: compute_answers(logits, scores, geometry, [1], *args)
    result, flipped = post_process(theirs, 1e-5)
    assert flipped == 1 and result["scores_by_query"][0] == pytest.approx(expected, abs=1e-6)
    kept = post_process(theirs, 1e-7)
    assert kept[1] == 0 and abs(kept[0]["scores_by_query"][0] - expected) > 0.05
    instance = result["completed_instance_all_scores"] / kept[0]["completed_instance_all_scores"]
    assert instance[0] == pytest.approx(result["scores_by_query"][0] / kept[0]["scores_by_query"][0])
    np.testing.assert_array_equal(result["post_mask_logits"], logits)  # the compared logits are unchanged
    case_scores = np.array([expected], np.float32)
    told, flipped = post_process(None, 1e-5, case_scores)
    assert flipped == 1 and told["scores_by_query"][0] == pytest.approx(expected, abs=1e-6)
    assert post_process(None, 1e-7, case_scores)[1] == 0
    assert post_process(None, 1e-5, kept[0]["scores_by_query"])[1] == 0, "our own score needs no flip"


def test_subsample():
    full = np.arange(100 * 40 * 7).reshape(100, 40, 7)
    np.testing.assert_array_equal(subsample(full, (2, 20, 7)), full[::50, ::2])
    np.testing.assert_array_equal(subsample(full, (100, 40, 4)), full[:, :, ::2])
    with pytest.raises(AssertionError):
        subsample(full, (100, 40))


def test_inputs_are_generated_by_recipe(tmp_path):
    recipe = {"maps": "'held/x/scale<i>' std 0.5", "res2": "'held/x/res2' std 1, shape [2, 3]", "c": "c': 'held/x/cot' std 2"}
    case = make_case(tmp_path, input_recipe=recipe)
    np.testing.assert_array_equal(case.draw_input_as("scale7", [4]), recipe_normal("held/x/scale7", [4], 0, 0.5))
    np.testing.assert_array_equal(case.draw_input("res2"), recipe_normal("held/x/res2", [2, 3], 0, 1))
    np.testing.assert_array_equal(case.draw_input_as("cot", [4]), recipe_normal("held/x/cot", [4], 0, 2))
    for name in ("cot", "res3"):
        with pytest.raises(AssertionError, match="recipe"):
            case.draw_input(name)


def test_sign_tolerance(tmp_path):
    outputs = {"masks": np.array([-1.0, 1.0]), "masks_stats": np.array([0.0, 100.0])}
    measured = make_case(tmp_path, outputs, fp32_vs_fp64={"masks": {"max_abs": 3e-6}, "masks_stats": {"max_abs": 1.0}})
    assert measured.sign_tolerance(outputs, floors=10) == pytest.approx(3e-5)
    assert make_case(tmp_path, outputs).sign_tolerance(outputs, floors=10) == 0
    assert make_case(tmp_path, outputs).sign_tolerance([], floors=10) == 0


def test_layouts_of_several_rows():
    from case_model import layout_from_case

    from hyperseg_jax.systems.psalm.markers import TokenCounts

    ids = np.array([[5, 6, 7, 8]], np.int32)
    layout_from_rows = lambda rows: layout_from_case(
        types.SimpleNamespace(inputs={"input_ids": rows}), TokenCounts(4, 2, 3), 6
    )[0]
    both = layout_from_rows(np.concatenate([ids, ids + 1]))
    for k in range(2):
        np.testing.assert_array_equal(both.text_ids[k], layout_from_rows(ids + k).text_ids[0])
