"""Fine-tunes the shipped `tiny` on clips of the toy world in which objects vanish behind others and return, enter late and
leave: expressions, and objects whose masks are given on the first frame. Small enough for a few hundred steps on one CPU core.

The frames of a clip may be three frames apart, so that an object can vanish and return within it.
"""

import pathlib
import runpy

import ml_collections

TINY = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))
FRAMES = 4
SAMPLING = {"frames": FRAMES, "sampling": "stride", "reach": 3}


def get_config() -> ml_collections.ConfigDict:
    c = TINY["get_config"]()
    c.init_from = "tiny"
    c.init_optional = (r"prompt_aggregation/.*",)
    c.model.temporal.aggregation = True
    c.data.toy = {"seed": 0, "train": 8, "val": 8, "clips": 400, "level": "default", "kinds": "known", "videos": "occlusion"}
    c.data.curriculum.share = 0.0
    task = TINY["task"]
    c.data.tasks = {
        "video": task(
            "video",
            2,
            length=144,
            prompts=2,
            frames=FRAMES,
            val={"frames": 12},
            read={**SAMPLING, "group_by_video": True, "prompts_per_example": 2},
        ),
        "region": task(
            "video_objects",
            1,
            length=100,
            targets=5,
            regions=5,
            frames=FRAMES,
            drawn_on=1,  # the regions of all frames are those of the first one
            val={"frames": 12},
            read=SAMPLING,
        ),
    }
    c.optimizer.learning_rate = 5e-4
    c.train.update({"steps": 200, "batch_size": 4, "eval_every": 200, "eval_examples": 40, "save_every": 50})
    return c
