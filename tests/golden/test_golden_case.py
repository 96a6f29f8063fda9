"""The harness of the golden cases: what it takes as the case has it, and how cut or drawn tensors are found again."""

import json
import types

import numpy as np
import pytest
from answered import answered
from golden_case import GoldenCase, recipe_normal, thinned

from hyperseg_jax.ops.transforms import Geometry


def case_of(tmp_path, outputs=None, **meta):
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    case = GoldenCase(tmp_path)
    case.outputs = outputs or {}
    return case


@pytest.mark.parametrize("sign", [1, -1])
def test_a_legally_flipped_pixel_counts_as_in_the_case(sign):
    """One pixel beside zero moves a score by far more than rounding does. Further from zero it is our own mistake."""
    logits = np.array([[[3.0, 2.0, -4.0], [-1.0, sign * 1e-6, -2.0]]], np.float32)
    theirs = np.array([[[True, True, False], [False, sign < 0, False]]])
    scores = {"expression": np.array([1.0], np.float32), "class": np.array([[2.0, 0.0]], np.float32)}
    geometry = Geometry((2, 3), (2, 3), (2, 3))
    wanted = 1 / (1 + np.exp(-1.0)) * (1 / (1 + np.exp(-logits.astype(float))))[theirs].mean()
    ask = lambda *given: answered(logits, scores, geometry, [1], *given)
    made, flipped = ask(theirs, 1e-5)
    assert flipped == 1 and made["scores_by_query"][0] == pytest.approx(wanted, abs=1e-6)
    kept = ask(theirs, 1e-7)
    assert kept[1] == 0 and abs(kept[0]["scores_by_query"][0] - wanted) > 0.05
    instance = made["completed_instance_all_scores"] / kept[0]["completed_instance_all_scores"]
    assert instance[0] == pytest.approx(made["scores_by_query"][0] / kept[0]["scores_by_query"][0])
    np.testing.assert_array_equal(made["post_mask_logits"], logits)  # what is compared as logits stays as it is


def test_tensors_are_thinned_as_they_were_stored():
    full = np.arange(100 * 40 * 7).reshape(100, 40, 7)
    np.testing.assert_array_equal(thinned(full, (2, 20, 7)), full[::50, ::2])
    np.testing.assert_array_equal(thinned(full, (100, 40, 4)), full[:, :, ::2])
    with pytest.raises(AssertionError):
        thinned(full, (100, 40))


def test_drawn_inputs_follow_the_recipe_in_the_case(tmp_path):
    recipe = {"maps": "'held/x/scale<i>' std 0.5", "res2": "'held/x/res2' std 1, shape [2, 3]", "c": "c': 'held/x/cot' std 2"}
    case = case_of(tmp_path, input_recipe=recipe)
    np.testing.assert_array_equal(case.drawn_as("scale7", [4]), recipe_normal("held/x/scale7", [4], 0, 0.5))
    np.testing.assert_array_equal(case.drawn("res2"), recipe_normal("held/x/res2", [2, 3], 0, 1))
    np.testing.assert_array_equal(case.drawn_as("cot", [4]), recipe_normal("held/x/cot", [4], 0, 2))
    for name in ("cot", "res3"):
        with pytest.raises(AssertionError, match="recipe"):
            case.drawn(name)


def test_how_far_from_zero_a_bit_may_flip(tmp_path):
    outputs = {"masks": np.array([-1.0, 1.0]), "masks_stats": np.array([0.0, 100.0])}
    measured = case_of(tmp_path, outputs, fp32_vs_fp64={"masks": {"max_abs": 3e-6}, "masks_stats": {"max_abs": 1.0}})
    assert measured.near_zero(outputs, floors=10) == pytest.approx(3e-5)
    assert case_of(tmp_path, outputs).near_zero(outputs, floors=10) == 0
    assert case_of(tmp_path, outputs).near_zero([], floors=10) == 0


def test_rows_of_a_layout_are_read_one_by_one():
    from whole_model import layout_of

    from hyperseg_jax.systems.hyperseg.markers import TokenCounts

    ids = np.array([[5, 6, 7, 8]], np.int32)
    of = lambda rows: layout_of(types.SimpleNamespace(inputs={"input_ids": rows}), TokenCounts(4, 2, 3), 6)[0]
    both = of(np.concatenate([ids, ids + 1]))
    for k in range(2):
        np.testing.assert_array_equal(both.text_ids[k], of(ids + k).text_ids[0])
