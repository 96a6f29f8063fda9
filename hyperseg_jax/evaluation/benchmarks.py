"""The benchmarks of `hyperseg evaluate --benchmarks`: reader, file paths and scoring of each one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from hyperseg_jax.data.sources import READERS, Task, make_processor, open_reader
from hyperseg_jax.datasets.frame_sampling import ReferenceFrames
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.protocols import AllFrames, EvalProtocol, PredictionFn
from hyperseg_jax.evaluation.scoring import SCORINGS
from hyperseg_jax.structs import Example
from hyperseg_jax.systems.system import System


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    task: task of its prompts; the config's task of that name sets their format. scoring: a name of scoring.SCORINGS.
    reader: a name of sources.READERS. fields: arguments of the reader; {root} is replaced by the folder of all data.
    published: whether to use the thresholds of the published scores instead of the usual ones. submission: format of the
    evaluation server, a name of submissions.WRITERS, or "". truth: whether the files have ground truth; otherwise answers are
    only written for the server. together: maximum number of phrases about an image in one query, for systems that relate them.
    options: further arguments of the evaluation protocol.
    """

    task: str
    scoring: str
    reader: str
    fields: Mapping[str, Any]
    published: bool = True
    submission: str = ""
    truth: bool = True
    together: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def make_protocol(
        self,
        example: Example,
        predict: PredictionFn,
        references: ReferenceFrames | None = None,
        *,
        interactive: bool = False,
        together: int = 1,
    ) -> EvalProtocol:
        """Returns the evaluation protocol of an example. predict, references: see EvalProtocol. interactive: of the system.
        together: prompts in one query."""
        if together > 1:
            return AllFrames(example, predict, group_size=together)
        scoring = SCORINGS[self.scoring]
        protocol = scoring.interactive or scoring.protocol if interactive else scoring.protocol
        return protocol(example, predict, references, **self.options)


_TRAIN2014, _VAL2017 = "{root}/coco/train2014", "{root}/coco/val2017"
_NOTES = "{root}/coco/annotations"
_PANOPTIC = {"json_path": f"{_NOTES}/panoptic_val2017.json", "image_root": _VAL2017, "png_root": f"{_NOTES}/panoptic_val2017"}
_REVOS = {
    "meta_path": "{root}/revos/meta_expressions_valid_.json",
    "mask_path": "{root}/revos/mask_dict.json",
    "foreground_path": "{root}/revos/mask_dict_foreground.json",
    "frame_root": "{root}/revos/JPEGImages",
}


def _referring_benchmark(name: str) -> Benchmark:
    """Returns a benchmark of the RefCOCO family. name: its file, without .json."""
    fields = {"json_path": f"{{root}}/refcoco/{name}.json", "image_root": _TRAIN2014}
    return Benchmark("referring", "referring", "refcoco", fields)


def _reasoning_benchmark(split: str) -> Benchmark:
    """Returns a benchmark of ReasonSeg: the first question of each image, as in the evaluations of LISA and InstructSeg."""
    fields = {"folder": f"{{root}}/reasonseg/{split}", "sentences": "first"}
    return Benchmark("reasoning", "referring", "reasonseg", fields)


def _visual_prompt_benchmark(kind: str) -> Benchmark:
    """Returns the interactive benchmark of COCO with prompts of one kind, such as "point"."""
    fields: dict[str, Any] = {
        "json_path": "{root}/interactive/coco_interactive_val.json",
        "image_root": _VAL2017,
        "kinds": (kind,),
        "point_radius": 10,  # pixels in every image, as in the published evaluations (PSALM, HyperSeg)
        "scribble_radius": 5,
    }
    return Benchmark("region", "regions", "interactive", fields)


def _benchmark_from_layout(
    task: str,
    scoring: str,
    name: str,
    split: str,
    submission: str = "",
    *,
    truth: bool = True,
    **options: Any,
) -> Benchmark:
    """Returns a benchmark with the file layout of datasets/layouts.py. options: options of its reader."""
    fields = {"name": name, "split": split, "root": "{root}", **options}
    return Benchmark(task, scoring, "benchmark", fields, submission=submission, truth=truth)


def _sentence_benchmark(split: str) -> Benchmark:
    """Returns the benchmark of RefCOCOg in which each object has one sentence, its first, as it was written, and the sentences
    about an image are one query, as in SEEM's evaluation."""
    line = _benchmark_from_layout("referring", "referring", "refcocog", split, sentences="first", prompts_per_example=TOGETHER)
    return dataclasses.replace(line, together=TOGETHER)


def _click_benchmark(start: str) -> Benchmark:
    """Returns the benchmark of clicks on the objects of Pascal VOC. start: the first prompt, a key of START_SHAPES."""
    line = _benchmark_from_layout("region", "clicks", "pascal_voc_objects", "val")
    return dataclasses.replace(line, options={"start": start})


def _caption_benchmark(layout: str, split: str, scoring: str = "captions", **options: Any) -> Benchmark:
    """Returns a benchmark of region captions. options: of its reader, such as mark="point" instead of boxes."""
    return _benchmark_from_layout("caption", scoring, layout, split, **options)


def _toy_benchmark(task: str, scoring: str, **options: Any) -> Benchmark:
    """Returns a benchmark of the generated toy dataset. options: options of its reader."""
    return Benchmark(task, scoring, "toy", {"folder": "{root}", "task": task, "split": "val", **options}, published=False)


TOGETHER = 16
"""Maximum number of sentences about an image in one query."""
BENCHMARKS: dict[str, Benchmark] = {
    "refcoco": _referring_benchmark("refcoco_val"),
    "refcoco_testA": _referring_benchmark("refcoco_testA"),
    "refcoco_testB": _referring_benchmark("refcoco_testB"),
    "refcoco+": _referring_benchmark("refcoco+_val"),
    "refcoco+_testA": _referring_benchmark("refcoco+_testA"),
    "refcoco+_testB": _referring_benchmark("refcoco+_testB"),
    "refcocog": _referring_benchmark("refcocog_val"),
    "refcocog_test": _referring_benchmark("refcocog_test"),
    "refcocog_first": _sentence_benchmark("val"),
    "refcocog_first_test": _sentence_benchmark("test"),
    "grefcoco": dataclasses.replace(_benchmark_from_layout("referring", "generalized", "grefcoco", "val"), published=False),
    "reasonseg": _reasoning_benchmark("val"),
    "reasonseg_test": _reasoning_benchmark("test"),
    "coco_panoptic": Benchmark("panoptic", "panoptic", "coco_panoptic", _PANOPTIC, submission="coco_panoptic"),
    "coco_semantic": Benchmark("panoptic", "semantic", "coco_panoptic", _PANOPTIC),
    "coco_entities": Benchmark("panoptic", "entities", "coco_panoptic", _PANOPTIC),
    "coco_point": _visual_prompt_benchmark("point"),
    "coco_scribble": _visual_prompt_benchmark("scribble"),
    "coco_box": _visual_prompt_benchmark("box"),
    "coco_mask": _visual_prompt_benchmark("mask"),
    "revos": Benchmark("video", "revos", "revos", _REVOS, submission="ref_youtube_vos"),
    "ade20k": _benchmark_from_layout("panoptic", "semantic", "ade20k", "validation"),
    "ade20k_raw": _benchmark_from_layout("panoptic", "semantic", "ade20k", "validation", labels="raw"),
    "cityscapes": _benchmark_from_layout("panoptic", "semantic", "cityscapes", "val"),
    "pascal_context59": _benchmark_from_layout("panoptic", "semantic", "pascal_context59", "val"),
    "pascal_voc20": _benchmark_from_layout("panoptic", "semantic", "pascal_voc20", "val"),
    "coco_stuff": _benchmark_from_layout("panoptic", "semantic", "coco_stuff", "val2017"),
    "coco_stuff_words": _benchmark_from_layout("panoptic", "semantic", "coco_stuff", "val2017", names="words"),
    "coco_unseen": _benchmark_from_layout("panoptic", "semantic", "coco_stuff", "val2017", names="words", subset="unseen"),
    "coco_zero_shot": _benchmark_from_layout("panoptic", "zero_shot", "coco_stuff", "val2017", names="words"),
    "coco_instances": _benchmark_from_layout("panoptic", "instances", "coco_instances", "val2017"),
    "coco_panoptic_instances": _benchmark_from_layout("panoptic", "instances", "coco_instances", "val2017", stuff=True),
    "coco_clicks": _benchmark_from_layout("region", "clicks", "coco_visual_prompts", "val2017"),
    "voc_clicks": _click_benchmark("point"),
    "voc_clicks_circle": _click_benchmark("circle"),
    "voc_clicks_scribble": _click_benchmark("scribble"),
    "voc_clicks_polygon": _click_benchmark("polygon"),
    "voc_clicks_box_centre": _click_benchmark("box_centre"),
    "voc_clicks_box": _click_benchmark("box"),
    "davis2016": _benchmark_from_layout("region", "davis", "davis2016", "val"),
    "davis2017": _benchmark_from_layout("region", "davis", "davis2017", "val", "davis"),
    "davis2017_unsupervised": _benchmark_from_layout("panoptic", "davis_unsupervised", "davis2017_unsupervised", "val"),
    "ref_davis": _benchmark_from_layout("video", "ref_davis", "ref_davis", "val", together=True),
    "ref_youtube_vos": _benchmark_from_layout("video", "clips", "ref_youtube_vos", "valid", "ref_youtube_vos", truth=False),
    "ref_youtube_vos_train": _benchmark_from_layout("video", "clips", "ref_youtube_vos", "train"),
    "youtube_vis_2019": _benchmark_from_layout("panoptic", "tracks", "youtube_vis_2019", "valid", "youtube_vis", truth=False),
    "youtube_vis_2019_train": _benchmark_from_layout("panoptic", "tracks", "youtube_vis_2019", "train"),
    "youtube_vis_2021": _benchmark_from_layout("panoptic", "tracks", "youtube_vis_2021", "valid", "youtube_vis", truth=False),
    "youtube_vis_2021_train": _benchmark_from_layout("panoptic", "tracks", "youtube_vis_2021", "train"),
    "vqav2": _benchmark_from_layout("chat", "vqa", "vqav2", "val2014", "vqa"),
    "gqa": _benchmark_from_layout("chat", "exact", "gqa", "testdev_balanced"),
    "pope_random": _benchmark_from_layout("chat", "pope", "pope", "random"),
    "pope_popular": _benchmark_from_layout("chat", "pope", "pope", "popular"),
    "pope_adversarial": _benchmark_from_layout("chat", "pope", "pope", "adversarial"),
    "scienceqa": _benchmark_from_layout("chat", "exact", "scienceqa", "test"),
    "mmbench": _benchmark_from_layout("chat", "multiple_choice", "mmbench", "DEV_EN", "mmbench"),
    "vg_densecap": _caption_benchmark("visual_genome", "test"),
    "vg_densecap_centre": _caption_benchmark("visual_genome", "test", mark="centre"),
    "vg_densecap_point": _caption_benchmark("visual_genome", "test", mark="point"),
    "vg_densecap_predicted_point": _caption_benchmark("visual_genome", "test", "captions_of_predicted_points"),
    "refcoco_captions": _caption_benchmark("refcoco_captions", "val"),
    "refcoco_captions_testA": _caption_benchmark("refcoco_captions", "testA"),
    "refcoco_captions_testB": _caption_benchmark("refcoco_captions", "testB"),
    "refcoco+_captions": _caption_benchmark("refcoco+_captions", "val"),
    "refcoco+_captions_testA": _caption_benchmark("refcoco+_captions", "testA"),
    "refcoco+_captions_testB": _caption_benchmark("refcoco+_captions", "testB"),
    "refcocog_captions": _caption_benchmark("refcocog_captions", "val"),
    "refcocog_captions_test": _caption_benchmark("refcocog_captions", "test"),
    "refcoco_captions_mask_point": _caption_benchmark("refcoco_captions", "val", mark="mask_point"),
    "toy_referring": _toy_benchmark("referring", "referring", sentences="raw"),
    "toy_absent": _toy_benchmark("referring", "generalized", sentences="raw"),
    "toy_reasoning": _toy_benchmark("reasoning", "referring"),
    "toy_panoptic": _toy_benchmark("panoptic", "panoptic", max_classes=8),
    "toy_panoptic_16": _toy_benchmark("panoptic", "panoptic", max_classes=16),
    "toy_entities": _toy_benchmark("panoptic", "entities", max_classes=16),
    "toy_instances": _toy_benchmark("panoptic", "instances", max_classes=8),
    "toy_semantic": _toy_benchmark("panoptic", "semantic", max_classes=8),
    "toy_semantic_all": _toy_benchmark("panoptic", "semantic"),
    "toy_regions": _toy_benchmark("region", "regions", max_regions=3),
    "toy_clicks": _toy_benchmark("region", "clicks", kinds=("point",), max_regions=3),
    "toy_video": dataclasses.replace(_toy_benchmark("video", "clips"), submission="ref_youtube_vos"),
    "toy_tracks": dataclasses.replace(_toy_benchmark("instances", "tracks", max_classes=8), task="panoptic"),
    "toy_video_objects": dataclasses.replace(_toy_benchmark("video_objects", "davis"), task="region", submission="davis"),
    "toy_chat": _toy_benchmark("chat", "exact", prompts_per_example=1),
    "toy_captions": _toy_benchmark("caption", "captions"),
    "toy_captions_point": _toy_benchmark("caption", "captions", mark="point"),
    "toy_captions_predicted_point": _toy_benchmark("caption", "captions_of_predicted_points"),
}


def find_benchmarks(names: str) -> dict[str, Benchmark]:
    """Returns the benchmarks of a comma-separated list of names. Raises UserError, listing all benchmarks, if a name is
    unknown."""
    requested = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in requested if name not in BENCHMARKS]
    if unknown or not requested:
        raise UserError(f"--benchmarks {', '.join(unknown) or repr(names)}: unknown; choose from {', '.join(BENCHMARKS)}")
    return {name: BENCHMARKS[name] for name in requested}


def check_task(name: str, benchmark: Benchmark, config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the config does not have the task of the benchmark."""
    if benchmark.task not in config.data.tasks:
        raise UserError(
            f"benchmark {name}: the config has no task {benchmark.task!r}, which the benchmark needs; "
            f"it has {', '.join(config.data.tasks)}"
        )


def open_task(name: str, benchmark: Benchmark, config: ml_collections.ConfigDict, system: System[Any], root: str) -> Task:
    """Returns the benchmark as a validation task, in the format of the config's task of that name.

    root: folder of all data. Raises UserError if files are missing or the config has no such task.
    """
    if benchmark.reader not in READERS:
        raise UserError(f"benchmark {name}: its reader {benchmark.reader!r} is not registered; use one of {', '.join(READERS)}")
    check_task(name, benchmark, config)
    examples = open_reader(f"benchmark {name}", benchmark.reader, benchmark.fields, root)
    if not len(examples):
        raise UserError(f"benchmark {name}: has no examples; check its files below {root}")
    sizes = {size: 1 for size in ("prompts", "frames") if size in config.data.tasks[benchmark.task]}
    if benchmark.together > 1 and system.relates_phrases:
        sizes["prompts"] = benchmark.together
    prompt_processor = make_processor(config, system, system.load_tokenizer(config), benchmark.task, **sizes)
    return Task(name, None, examples, 0, prompt_processor)
