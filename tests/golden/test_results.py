"""Post-processing and tracking against the published system and its parent's rules."""

import numpy as np
import pytest
from case_answers import case_geometry, compute_answers

from hyperseg_jax.results.tracking import Tracker


@pytest.mark.golden("hyperseg", r"postprocess.*")
def test_post_processing(case):
    read, expected = case.inputs, case.outputs["post_mask_logits"]
    scores = {"expression": read["SEG_logits"][:, 0], "class": read["class_logits"], "region": read["region_logits"].T}
    allowed = case.sign_tolerance(["post_mask_logits"], floors=1)
    result, _ = compute_answers(
        read["mask_logits"], scores, case_geometry(read), read["is_thing"].tolist(), expected > 0, allowed
    )
    logits = result["post_mask_logits"]
    case.compare_signs("post_mask_logits > 0", logits > 0, expected > 0, logits, allowed)
    best = logits[result["best_query"][0]]
    for name in case.outputs:
        if name == "referring_best_mask":
            case.compare_signs(name, best > 0, case.outputs[name] > 0, best, allowed)
        else:
            case.compare(name, result[name.removeprefix("referring_")])
    case.check()


@pytest.mark.golden("hyperseg", r"tracker.*")
def test_tracker(case):
    config, read = case.config, case.inputs
    tracker = Tracker(
        duplicate_iou=config["nms_thr_pre"],
        backdrop_iou=config["nms_thr_post"],
        first_score=config["init_score_thr"],
        new_score=config["addnew_score_thr"],
        match_score=config["match_score_thr"],
        forget_after=config["memo_tracklet_frames"],
        momentum=config["memo_momentum"],
        long_memory=config.get("long_match", False),
        recent_first=config.get("temporal_weight", False),
        prefer_long=config.get("frame_weight", False),
    )
    for frame in range(sum(name.startswith("bboxes_") for name in read)):
        masks = read[f"masks_{frame}"][:, 0] > 0
        result = tracker.update(masks, read[f"bboxes_{frame}"][:, 4], read[f"embeds_{frame}"])
        case.compare(f"ids_{frame}", result.ids)
        case.compare(f"kept_indices_{frame}", read[f"indices_{frame}"][result.kept])
        case.compare(f"kept_labels_{frame}", read[f"labels_{frame}"][result.kept])
        case.compare(f"num_tracklets_{frame}", np.array([tracker.num_tracks]))
    case.compare("final_track_ids", np.array(list(tracker.embeddings)))
    case.compare("final_track_embeds", np.stack(list(tracker.embeddings.values())))
    case.check()
