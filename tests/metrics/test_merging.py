"""Every accumulator gives the same scores for any distribution of samples over hosts, and its state is JSON."""

import copy
import json

import numpy as np
import pytest

from hyperseg_jax import metrics

SAMPLES = 7  # leaves a remainder for 2 and for 4


def masks(seed, *shape):
    return np.random.default_rng(seed).random(shape) < 0.4


def exclusive(seed, count):
    owner = np.random.default_rng(seed).integers(0, count + 1, (12, 12))
    return np.arange(1, count + 1)[:, None, None] == owner


def referring(scores, k):
    scores.update(masks(k, 12, 12), masks(k + 50, 12, 12) & (k % 3 > 0), masks(k + 90, 12, 12), group=f"g{k % 2}")


def clip(scores, k):
    scores.update(masks(k, 3, 12, 12), masks(k + 50, 3, 12, 12), group=f"g{k % 2}")


def interactive(scores, k):
    scores.update(masks(k, 3, 12, 12), masks(k + 50, 3, 12, 12), ["point", "box", "point"])


def panoptic(scores, k):
    ours, true = exclusive(k % 2, 4), exclusive(k % 3, 4)
    scores.update(ours, [k % 2, 0, 1, 2], true, [k % 2, 0, 1, 2], ("a", "b", "c"), (True, True, False))


def semantic(scores, k):
    draw = np.random.default_rng(k).integers(0, 3, (2, 8, 8))
    scores.update(draw[0], draw[1], ("a", "b", "c"), masks(k, 8, 8))


def generalized(scores, k):
    scores.update(masks(k, 8, 8) & (k % 2 > 0), masks(k + 50, 8, 8) & (k % 3 > 0))


def davis(scores, k):
    scores.update(masks(k, 2, 5, 12, 12), masks(k + 50, 2, 5, 12, 12), masks(k + 90, 5, 12, 12), group=f"g{k % 2}")


def revos(scores, k):
    true = masks(k + 50, 3, 12, 12)
    scores.update(masks(k, 3, 12, 12), true, true | masks(k + 90, 3, 12, 12), ("referring", "reasoning", "absent")[k % 3])


def clicks(scores, k):
    scores.update(np.sort(np.random.default_rng(k).random(20)).tolist())


def mask_ap(scores, k, frames=()):
    rng = np.random.default_rng(k)
    target = masks(k, 3, *frames, 12, 12)
    ours = target ^ (rng.random(target.shape) < 0.1 * (k % 4))
    scores.update(f"picture {k}", ours, rng.integers(1, 4, 3) / 4, "aab", target, "abb")


def video_ap(scores, k):
    mask_ap(scores, k, frames=(2,))


def vqa(scores, k):
    scores.update("two dogs", ["2 dogs"] * (k % 4) + ["a cat"] * (10 - k % 4), "other" if k % 2 else "number")


def pope(scores, k):
    scores.update("Yes." if k % 3 else "No, it is not.", k % 2 == 0, f"g{k % 2}")


def multiple_choice(scores, k):
    scores.update("AB"[k % 2], "A", {"A": "cat", "B": "dog"}, k // 2, f"g{k % 3}")


def exact(scores, k):
    scores.update(f"{k % 2}.", "1", f"g{k % 3}")


def captions(scores, k):
    truth = [[f"a red cup {k}", "a cup"], ["the blue ball on a table"]]
    scores.update(f"picture {k}", ["a red cup", "a ball on grass"[: 3 * k + 1]], truth)


def entities(scores, k):
    true, ours = masks(k, 2, 12, 12), masks(k + 1, 3, 12, 12)
    scores.update(
        np.concatenate([true[:1], ours]), (0, 1, 1, 0), true, (0, 1), written=(0, None, 2)[: k % 4] if k % 2 else None
    )


def no_ground_truth(scores, k):
    scores.update()


KINDS = {
    "referring": (metrics.ReferringScores, referring),
    "clip": (metrics.VideoScores, clip),
    "interactive": (metrics.InteractiveScores, interactive),
    "panoptic": (metrics.PanopticQuality, panoptic),
    "entities": (metrics.EntityScores, entities),
    "semantic": (metrics.SemanticScores, semantic),
    "zero_shot": (lambda: metrics.ZeroShotScores(["b"]), semantic),
    "generalized": (metrics.GeneralizedScores, generalized),
    "davis": (lambda: metrics.DavisScores("unsupervised"), davis),
    "clicks": (metrics.ClickScores, clicks),
    "revos": (lambda: metrics.ReVosScores("released"), revos),
    "mask_ap": (metrics.MaskAP, mask_ap),
    "video_ap": (metrics.VideoAP, video_ap),
    "track_scores": (metrics.TrackScores, video_ap),
    "vqa": (metrics.VqaScores, vqa),
    "pope": (metrics.PopeScores, pope),
    "multiple_choice": (metrics.MultipleChoiceScores, multiple_choice),
    "exact": (metrics.ExactScores, exact),
    "captions": (metrics.CaptionScores, captions),
    "no_ground_truth": (metrics.NoGroundTruth, no_ground_truth),
}


def test_every_accumulator_is_tested():
    assert {type(new()) for new, _ in KINDS.values()} == {getattr(metrics, name) for name in metrics.__all__}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_merged_parts_equal_the_full_scores(kind, parts):
    new, feed = KINDS[kind]
    full, total = new(), new()
    for k in range(SAMPLES):
        feed(full, k)
    for part in range(parts):
        seen = new()
        for k in range(part, SAMPLES, parts):
            feed(seen, k)
        total.merge(type(seen).from_state(json.loads(json.dumps(seen.state()))))
    expected = full.compute()
    assert expected == full.compute() and total.compute() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert len({round(value, 6) for value in expected.values()}) > 1 or expected == {"count": SAMPLES}  # else nothing was told


@pytest.mark.parametrize("kind", KINDS)
def test_empty_accumulators(kind):
    new, _ = KINDS[kind]
    total = new()
    total.merge(type(total).from_state(new().state()))
    assert all(np.isfinite(value) for value in total.compute().values())


def test_different_rules_cannot_be_merged():
    with pytest.raises(ValueError, match="cannot be merged"):
        metrics.ReferringScores().merge(metrics.ReferringScores("released"))
    with pytest.raises(ValueError, match="official, released"):
        metrics.ReVosScores("other")
    assert metrics.ReVosScores.from_state(metrics.ReVosScores("released").state()).state()["options"] == {"rules": "released"}


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_wrong_shape_are_refused(kind):
    new, feed = KINDS[kind]
    seen = new()
    feed(seen, 0)
    for change in DAMAGE:
        state = json.loads(json.dumps(seen.state()))
        change(state)
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError, OverflowError)):
            new().merge(type(seen).from_state(state))


@pytest.mark.parametrize("kind", [kind for kind, (new, _) in KINDS.items() if type(new()).__dict__.get("bounds")])
def test_sums_larger_than_their_count_are_refused(kind):
    """Otherwise a damaged partial evaluation would give an accuracy of 1.7e9."""
    new, feed = KINDS[kind]
    seen = new()
    feed(seen, 0)
    kept = json.loads(json.dumps(seen.state()))
    for share, _ in seen.bounds:
        state = copy.deepcopy(kept)
        _change_numbers(state, lambda row, share=share: [1e12 if k == share else value for k, value in enumerate(row)])
        with pytest.raises(ValueError, match="valid numbers"):
            type(seen).from_state(state)
    _change_numbers(kept, lambda row: [0.0] * len(row))  # 0 / 0
    with pytest.raises(ValueError, match="valid numbers"):
        type(seen).from_state(kept)


IMPOSSIBLE = {  # accumulator, row of sums
    "more above a threshold than targets": ("generalized", [212, 584, 1.08, 3, 0, 0, 1, 1, 3, 0, 0]),
    "prompts of no kind": ("generalized", [212, 584, 1.08, 3, 0, 0, 1, 1, 2, 0, 0]),
    "half a target": ("generalized", [212, 584, 1.08, 2, 0, 0, 0.5, 1.5, 2, 0, 0]),
    "half a question": ("exact", [0.5, 1]),
    "half a video": ("clip", [1, 1, 1.5]),
    "half a pixel": ("semantic", [1.5, 2, 2]),
    "numbers that overflow": ("exact", [1, 1e308]),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_sums_are_refused(case):
    kind, row = IMPOSSIBLE[case]
    new, feed = KINDS[kind]
    seen = new()
    feed(seen, 0)
    state = json.loads(json.dumps(seen.state()))
    _change_numbers(state, lambda _: row)
    with pytest.raises(ValueError, match="valid numbers"):
        type(seen).from_state(state)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"captions"}))
def test_numbers_of_wrong_type_are_refused(kind):
    """Else texts would count as their numbers, and where nothing was found, `{}` and "" would pass for lists until the score is
    asked for."""
    new, feed = KINDS[kind]
    seen = new()
    feed(seen, 0)
    kept = json.loads(json.dumps(seen.state()))
    changes = [lambda row: [str(value) for value in row], lambda row: [value > 0 for value in row], dict.fromkeys]
    for change in changes:
        state = copy.deepcopy(kept)
        _change_numbers(state, change)
        with pytest.raises(ValueError, match=r"valid numbers|unexpected format"):
            type(seen).from_state(state)


@pytest.mark.parametrize("kind", ["mask_ap", "video_ap"])
@pytest.mark.parametrize("value", [{}, "", None, 0])
def test_matches_are_lists(kind, value):
    state = {"scores": [], "matched": [[]] * 4, "ignored": [[]] * 4, "targets": [1] * 4}
    damaged = [state | {name: [value] * 4} for name in ("matched", "ignored")]
    damaged += [state | {name: value} for name in state] + [value, state | {"scores": [value]}]
    for matches in damaged:
        with pytest.raises((ValueError, TypeError, KeyError)):
            KINDS[kind][0].from_state({"options": {}, "images": {"a": {"cat": matches}}})
    full = KINDS[kind][0].from_state({"options": {}, "images": {"a": {"cat": state}}})
    assert full.compute()["ar@100"] == 0


def test_more_matches_than_targets_are_refused():
    """Otherwise the recall of a damaged file would be above 1."""
    state = {"scores": [0.5, 0.4], "matched": [[1, 3]] * 4, "ignored": [[0, 1]] * 4, "targets": [1] * 4}
    read = lambda **fields: metrics.MaskAP.from_state({"options": {}, "images": {"a": {"cat": state | fields}}})
    assert 0 < read().compute()["ar@100"] <= 1
    for fields in ({"ignored": [[0, 0]] * 4}, {"targets": [1, 1, 0, 1]}):
        with pytest.raises(ValueError, match="unexpected format"):
            read(**fields)


@pytest.mark.parametrize("value", [{"a": "no"}, {"a": 0}, [["a", True]], "", None])
def test_thing_flags_must_be_boolean(value):
    seen = metrics.PanopticQuality()
    panoptic(seen, 0)
    state = {**seen.state(), "thing": value if type(value) is not dict else dict.fromkeys("abc", value["a"])}
    with pytest.raises(ValueError, match="to true or false"):
        metrics.PanopticQuality.from_state(state)


def test_only_davis_decays_may_be_negative():
    seen = metrics.DavisScores("unsupervised")
    davis(seen, 0)
    kept = seen.state()
    for k in range(seen.columns):
        state = copy.deepcopy(kept)
        for row in state["sums"].values():
            row[k] = -abs(row[k]) or -0.5
        if k in (2, 5):
            assert metrics.DavisScores.from_state(state).state() == state
        else:
            with pytest.raises(ValueError, match="valid numbers"):
                metrics.DavisScores.from_state(state)


def test_states_with_too_many_targets_are_refused():
    """Each would allocate an array of that size."""
    result = {"scores": [], "matched": [[]] * 4, "ignored": [[]] * 4, "targets": [2**23] * 4}
    with pytest.raises(ValueError, match="more than any benchmark"):
        metrics.MaskAP.from_state({"options": {}, "images": {"a": {"0": result}}})
    none = result | {"targets": [0] * 4}
    with pytest.raises(ValueError, match="9000 classes and 9000 images"):
        metrics.MaskAP.from_state({"options": {}, "images": {str(k): {str(k): none} for k in range(9000)}})


def _change_numbers(state, change):
    """Applies a change to the numbers of a state: rows of sums, or the number of targets in an image; or to the references of
    captions."""
    for name, row in state.get("sums", {}).items():
        state["sums"][name] = change(row)
    for kinds in state.get("images", {}).values():
        for result in kinds.values():
            result["targets"] = change(result["targets"])
    for rows in state.get("examples", {}).values():
        for row in rows:
            row[1] = change(row[1][:1])


DAMAGE = (
    lambda state: state.clear(),
    lambda state: state.update(options={"a": 1}, images=[], sums=[]),
    lambda state: _change_numbers(state, lambda row: row[:-1]),
    lambda state: _change_numbers(state, lambda row: [*row, 1]),
    lambda state: _change_numbers(state, lambda row: [row]),
    lambda state: _change_numbers(state, lambda row: "x"),
    lambda state: _change_numbers(state, lambda row: [10**400] * len(row)),
)
