"""The Python API of a trained model: segments images and videos, and answers questions about them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pathlib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import Float32, Int16
from PIL import Image

from hyperseg_jax.data.read_ahead import read_in_thread
from hyperseg_jax.data.video_files import read_frames
from hyperseg_jax.datasets import files
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.engine import TEXT, AnswerOptions, Engine, Request, make_prediction_fn
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.predictors import arguments as check
from hyperseg_jax.predictors.automatic import AutomaticMasks, AutomaticOptions, find_everything
from hyperseg_jax.predictors.session import Session
from hyperseg_jax.predictors.video_objects import ObjectIds, segment_objects
from hyperseg_jax.results.instances import InstanceTracks
from hyperseg_jax.results.mask_resize import canvas_size, check_canvas, geometry_array
from hyperseg_jax.structs import Example, Prediction, Prompt, Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted import images
from hyperseg_jax.untrusted.orientation import UPRIGHT, parse_orientation
from hyperseg_jax.weights import model_folder

ImageLike = np.ndarray | Image.Image | str | os.PathLike
FRAMES_AHEAD = 2
"""Frames of a video that are decoded and prepared while the model segments one."""
CLASS_ANSWERS = ("panoptic", "instances", "semantic")


class Model:
    """A loaded model.

    Methods take an image as a path, a PIL image, or uint8 [H, W, 3]. A Prediction iterates over segments, each with .mask,
    .score and .label. Further prompts about one of the last two images reuse the encoded image.

    config, tokenizer, params: those of the model. engine: runs prompts; validation and benchmarks use the same class.
    """

    def __init__(self, config: ml_collections.ConfigDict, tokenizer: Tokenizer | None, params: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._system = systems.get(config.system)
        self._processor = self._system.processor(config, tokenizer, {})
        self.params = jax.device_put(params)
        self.engine = Engine.from_system(self._system, config, self.params)

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Model:
        """Loads a workdir of `hyperseg train`, a model folder, or a shipped model by name ("tiny")."""
        folder = model_folder.find_model_folder(name)
        config = model_folder.read_config(folder)
        with model_folder.naming_config(folder):
            tokenizer = systems.get(config.system).load_tokenizer(config, folder)
        params = model_folder.load_params(folder, model_folder.expected_params(folder, config))
        with model_folder.naming_config(folder):
            return cls(config, tokenizer, params)

    def segment(
        self,
        image: ImageLike,
        text: str,
        *,
        no_target_threshold: float | types.EllipsisType | None = ...,
        soft: bool = False,
        reasoning: bool = False,
    ) -> Prediction:
        """Segments the objects that the text refers to: one mask for all of them, or none.

        no_target_threshold: the prediction is empty when the probability of the expression is below it; the system's value by
        default. None always predicts a mask, as the published model does. soft: return float32 mask probabilities.
        reasoning: the text is a question whose answer is segmented ("what could one sit on?"); uses the prompt of reasoning
        segmentation.
        """
        task = "reasoning" if check.check_flag("reasoning", reasoning) else "referring"
        prompt = Prompt(task=task, text=check.check_text(text))
        kind = "soft_expression" if check.check_flag("soft", soft) else "expression"
        options = self._replace_thresholds(kind, no_target_threshold=no_target_threshold)
        predicted, _ = self._predict(_image_example(read_image(image), prompt), options)
        return _name_masks(predicted, text)

    def segment_classes(
        self,
        image: ImageLike,
        classes: Sequence[str],
        *,
        stuff: Sequence[str] = (),
        kind: str = "",
        threshold: float | types.EllipsisType = ...,
        overlap: float | types.EllipsisType = ...,
        entities: Sequence[str] | None = None,
    ) -> Prediction:
        """Segments every instance of the thing classes, and the stuff classes, without overlap; .ids is the segment map.

        A model with hybrid entity recognition first writes the names of what it sees: .written. entities: these names, if they
        are known; the model then writes none.

        kind: "instances" returns instances of the thing classes that may overlap, each with a score, and "semantic" one mask
        for each class that is the most probable one of some pixel; by default, "panoptic", or the kind that the system has.
        threshold: class probability that a panoptic segment must exceed. overlap: its minimum visible share. Both default to
        the system's values.
        """
        kind = check.check_string("kind", kind) or next(
            (kind for kind in CLASS_ANSWERS if kind in self.engine.answers.kinds), CLASS_ANSWERS[0]
        )
        if kind not in CLASS_ANSWERS:
            raise UserError(f"kind = {check.describe(kind)}: use one of {', '.join(CLASS_ANSWERS)}")
        prompt = check.class_prompt(classes, stuff)
        if entities is not None:
            if self.engine.split_names is None:
                raise UserError("this model writes no names before it segments; remove `entities`")
            prompt = dataclasses.replace(prompt, entities=check.check_names("entities", entities, unique=False))
        example = _image_example(read_image(image), prompt)
        return self._predict(example, self._replace_thresholds(kind, segment=threshold, overlap=overlap))[0]

    def most_probable_classes(
        self, image: ImageLike, classes: Sequence[str]
    ) -> tuple[Int16[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
        """Returns the index of the most probable class of each pixel, and its probability. Unlike the masks of
        `segment_classes`, they use the same memory for any number of classes."""
        example = _image_example(read_image(image), check.class_prompt(classes))
        request, geometry = self._make_request(example)
        row, _ = self._select(request, self._replace_thresholds("soft_semantic"))
        height, width = geometry.original
        return row["label"][0, 0, :height, :width], row["score"][0, 0, :height, :width]

    def segment_regions(
        self,
        image: ImageLike,
        regions: Sequence[np.ndarray | Region],
        *,
        labels: Sequence[str] = (),
        text: str = "",
        drawn_on: ImageLike | None = None,
    ) -> Prediction:
        """Segments the object marked by each region: a Region (points, boxes, scribbles, mask) or a rough bool mask [H, W].

        text: also says what to segment; for systems that compose prompts (System.composes). drawn_on: the image that the
        regions are drawn on, if it is another one; what they mark is then found in `image`.
        """
        regions, example = check.check_regions(regions), None if drawn_on is None else read_image(drawn_on)
        names = check.region_names(len(regions), labels)
        if not regions:
            raise UserError("no regions are given; draw at least one region")
        predicted, _ = self.answer_round(read_image(image), regions, text=text, example=example)
        return _name_masks(predicted, names)

    def segment_alternatives(self, image: ImageLike, region: np.ndarray | Region) -> Prediction:
        """Returns all masks that a region could mean, such as a part and the whole, best first. Their scores are the IoU that
        the model expects. Raises UserError if the system gives one mask only."""
        frame = read_image(image)
        prompt = check.region_prompt("region", frame, [check.check_region(region)])
        return self._predict(_image_example(frame, prompt), self._replace_thresholds("alternatives"))[0]

    def automatic(self, image: ImageLike, options: AutomaticOptions | None = None) -> AutomaticMasks:
        """Finds everything in an image: prompts a grid of points, and keeps the distinct masks of good quality.

        options: see AutomaticOptions. Raises UserError if the system has no automatic mode.
        """
        if options is not None and not isinstance(options, AutomaticOptions):
            raise UserError(f"options is {check.describe(options)}; give AutomaticOptions(...)")
        return find_everything(self, read_image(image), options or AutomaticOptions())

    def request_of_regions(self, frame: np.ndarray, regions: Sequence[Region]) -> tuple[Request, Geometry]:
        """Returns the batch of one prompt of regions, and the geometry of the image, uint8 [H, W, 3], in the model input."""
        return self._make_request(_image_example(frame, check.region_prompt("region", frame, regions)))

    def session(self, image: ImageLike, *, classes: Sequence[str] = ()) -> Session:
        """Starts interactive segmentation of an image. classes: names of which each mask gets the most probable one; for
        systems that compose prompts (System.composes)."""
        return Session(self, read_image(image), check.check_names("classes", classes))

    def answer_round(
        self,
        frame: np.ndarray,
        regions: Sequence[np.ndarray | Region],
        *,
        text: str = "",
        classes: Sequence[str] = (),
        example: np.ndarray | None = None,
        memory: Any = None,
    ) -> tuple[Prediction, Any]:
        """Answers one round about an image, uint8 [H, W, 3]; `session` is easier. Returns the prediction and the memory for the
        next round. regions: all so far; without any, the text is segmented. classes: see `session`. example: the image that
        the regions are drawn on, if it is another one. memory: that of the last round."""
        regions, classes, text = (
            check.check_regions(regions),
            check.check_names("classes", classes),
            check.check_string("text", text),
        )
        if regions:
            prompt = self._region_prompt(frame if example is None else example, regions, text, classes)
            asked = dataclasses.replace(_image_example(frame, prompt), drawn_on=example)
            predicted, new_memory = self._predict(asked, self._replace_thresholds("regions"), memory)
        else:
            self._check_composed(text="", classes=classes)
            prompt = Prompt("referring", check.check_text(text), classes=classes)
            predicted, new_memory = self._predict(_image_example(frame, prompt), self._replace_thresholds("expression"))
        if not classes:
            predicted = _name_masks(predicted, check.region_names(len(regions), ()) if regions else text)
        return predicted, new_memory if self.engine.interactive else None

    def segment_rounds(
        self, image: ImageLike, rounds: Iterable[Sequence[np.ndarray | Region]], *, labels: Sequence[str] = ()
    ) -> Iterator[Prediction]:
        """Segments interactively: yields one prediction for each round of regions.

        Each round contains all regions drawn so far, and earlier regions keep their indices. An interactive system
        (System.interactive) receives its memory of the previous round, as in click benchmarks; other systems answer each round
        independently.
        """
        frame, memory = read_image(image), None
        for regions in rounds:
            names = check.region_names(len(check.check_regions(regions)), labels)
            predicted, memory = self.answer_round(frame, regions, memory=memory)
            yield _name_masks(predicted, names)

    def segment_video(
        self,
        frames: Iterable[ImageLike] | str | os.PathLike[str],
        text: str = "",
        *,
        regions: Sequence[np.ndarray | Region] = (),
        drawn_on: ImageLike | None = None,
        labels: Sequence[str] = (),
        no_target_threshold: float | types.EllipsisType | None = ...,
        reasoning: bool = False,
    ) -> Iterator[tuple[np.ndarray, Prediction]]:
        """Yields (image, prediction) for each frame: what the text says, or one mask for each region. Memory use is constant.

        frames: images, or the path of a video file or of a folder of frames; FRAMES_AHEAD are read ahead. regions, labels: as
        in `segment_regions`; drawn on the image `drawn_on`, by default the first frame, which is encoded once. A text with
        regions is for systems that compose prompts.
        The model state passes from frame to frame, if the system has one. A system with reference frames reads ahead by half of
        them, and encodes each frame once. reasoning: see `segment`.
        """
        images, regions, text = _read_images(frames), check.check_regions(regions), check.check_string("text", text)
        check.check_flag("reasoning", reasoning)
        if regions:
            names: str | tuple[str, ...] = check.region_names(len(regions), labels)
            example = None if drawn_on is None else read_image(drawn_on)
            queries = self._region_queries(images, example, regions, text)
            options, cache_features = self._replace_thresholds("regions"), True
        else:
            names = check.check_text(text)
            queries = self._text_queries(images, Prompt("video", names, needs_reasoning=reasoning))
            options = self._replace_thresholds("expression", no_target_threshold=no_target_threshold)
            cache_features = self.engine.reference_frames is not None
        predictions = self._predict_stream(queries, options, cache_features)
        return ((frame, _name_masks(predicted, names)) for frame, predicted in predictions)

    def track_classes(
        self, frames: Iterable[ImageLike] | str | os.PathLike[str], classes: Sequence[str]
    ) -> Iterator[tuple[np.ndarray, Prediction]]:
        """Yields (image, prediction) for each frame: every instance of the classes, which may overlap, with its .track_ids, the
        same on all frames. Memory use is constant: results.instances says when an instance is forgotten.

        frames: see `segment_video`. Instances are linked by the embeddings of the re-identification head if a loss has trained
        it, else by those of the mask queries, which confuse similar objects. Raises UserError if the system cannot track.
        """
        images = _read_images(frames)
        prompt, options, tracks = check.class_prompt(classes), self._replace_thresholds("candidates"), InstanceTracks()
        self.engine.answers.find(options.kind)
        stream = self._predict_stream(self._text_queries(images, prompt), options, self.engine.reference_frames is not None)
        found = ((frame, tracks.update(candidates)) for frame, candidates in stream)
        return ((frame, _name_masks(each, tuple(prompt.classes[k] for k in each.labels))) for frame, each in found)

    def segment_objects(
        self, frames: Iterable[ImageLike] | str | os.PathLike[str], masks: ObjectIds | Mapping[int, ObjectIds]
    ) -> Iterator[tuple[np.ndarray, Prediction]]:
        """Yields (image, prediction) for each frame: the masks of given objects, named by their ids, without overlap.

        frames: see `segment_video`. masks: the object id of each pixel of the first frame, integers [H, W], 0 for background;
        or such arrays by the number of their frame, from 0, for objects that appear later: the ids that no earlier frame has
        are new objects. On the frame on which an object is given, its mask is the given one. On each other frame, a pixel
        belongs to the most probable object, or to none if the product of 1 - probability over the objects is larger. Objects
        given on one frame share one prompt and the state that passes from frame to frame. Raises UserError if there is no
        object, a size differs, or the system has no probabilities of regions.
        """
        options, given = self._replace_thresholds("soft_regions"), check.check_object_ids(masks)
        self.engine.answers.find(options.kind)
        images = _read_images(frames)
        return segment_objects(
            read_in_thread(images, FRAMES_AHEAD), given, lambda example, memory: self._predict(example, options, memory)
        )

    def _region_queries(
        self, images: Iterator[np.ndarray], drawn_on: np.ndarray | None, regions: Sequence[np.ndarray | Region], text: str
    ) -> Iterator[Example]:
        """Yields a query for each frame, about regions that are drawn on another image or on the first frame."""
        for first in images:
            example = first if drawn_on is None else drawn_on
            prompt = self._region_prompt(example, regions, text)
            for frame in itertools.chain([first], images):
                yield Example("the video", frame[None], (prompt,), drawn_on=example)

    def _text_queries(self, images: Iterator[np.ndarray], prompt: Prompt) -> Iterator[Example]:
        """Yields a query for each frame, with its reference frames if the system has some."""
        references = self.engine.reference_frames
        queries: Iterable[tuple[tuple[int, ...], list[np.ndarray]]]
        queries = (((), [image]) for image in images) if references is None else references.queries(images)
        for numbers, pixels in queries:
            yield Example("the video", _stack_frames(pixels), (prompt,), frame_numbers=numbers)

    def chat(self, image: ImageLike, question: str, *, seed: int = 0, **decoding: Any) -> str:
        """Returns the model's text answer.

        decoding: fields of llms.decoding.Decoding that differ from the default of the system, such as max_new_tokens=20,
        kind="beams", or kind="sampling" and temperature=0.7. seed: of sampling.
        """
        prompt = Prompt(task="chat", text=check.check_string("question", question))
        return self._generate_texts(read_image(image), prompt, seed, decoding)[0]

    def caption_regions(
        self, image: ImageLike, regions: Sequence[np.ndarray | Region], *, seed: int = 0, **decoding: Any
    ) -> tuple[str, ...]:
        """Returns a text for each region (a Region, or bool [H, W]); nothing if there is none. seed, decoding: see `chat`.

        Raises UserError if the system generates no text.
        """
        self.engine.check_writes()
        frame, regions = read_image(image), check.check_regions(regions)
        if not regions:
            return ()
        return self._generate_texts(frame, check.region_prompt("caption", frame, regions), seed, decoding)

    def _generate_texts(self, frame: np.ndarray, prompt: Prompt, seed: int, changes: dict[str, Any]) -> tuple[str, ...]:
        decoding = self.engine.decoding.replaced(changes)
        seed = check.check_seed(seed)
        request, geometry = self._make_request(_image_example(frame, prompt))
        row = {"texts": self.engine.generate(request, decoding, [seed])[0]}
        return make_prediction_fn(self.engine, AnswerOptions(TEXT, self.engine.answers.default), geometry)(prompt, row).texts

    def _replace_thresholds(self, kind: str, **thresholds: float | types.EllipsisType | None) -> AnswerOptions:
        """Returns the system's default thresholds with the given ones replaced."""
        overrides = {name: check.check_threshold(name, value) for name, value in thresholds.items() if value is not ...}
        return AnswerOptions(kind, dataclasses.replace(self.engine.answers.default, **overrides))  # type: ignore[arg-type]

    def _region_prompt(
        self,
        drawn_on: np.ndarray,
        regions: Sequence[np.ndarray | Region],
        text: str,
        classes: Sequence[str] = (),
    ) -> Prompt:
        """Returns the prompt of regions, which may have a text, and classes that name what is found, if the system composes
        prompts. Raises UserError for other systems."""
        self._check_composed(text=text, classes=classes)
        prompt = check.region_prompt("region", drawn_on, regions)
        return dataclasses.replace(prompt, text=check.check_text(text) if text else "", classes=tuple(classes))

    def _check_composed(self, *, text: str, classes: Sequence[str]) -> None:
        if (text or classes) and not self._system.composes:
            what = "a text with regions" if text else "class names of what is found"
            raise UserError(f"the system {self._system.name} does not support {what}; give exactly one kind of prompt")

    def _predict(
        self, example: Example, options: AnswerOptions, memory: Any = None, *, cache_features: bool = True
    ) -> tuple[Prediction, Any]:
        """Returns the prediction for an example with one prompt about one image, and the memory for the next round.
        cache_features: see Request."""
        return self._answer(example.prompts[0], *self._make_request(example, cache_features), options, memory)

    def _predict_stream(
        self, queries: Iterator[Example], options: AnswerOptions, cache_features: bool
    ) -> Iterator[tuple[np.ndarray, Prediction]]:
        """Yields (frame, prediction) for queries about the frames of a video, each with one prompt. cache_features: see
        Request."""
        prepared = ((query, *self._make_request(query, cache_features)) for query in queries)
        memory = None
        for query, request, geometry in read_in_thread(prepared, FRAMES_AHEAD):
            predicted, memory = self._answer(query.prompts[0], request, geometry, options, memory)
            yield query.frames[0], predicted

    def _answer(
        self, prompt: Prompt, request: Request, geometry: Geometry, options: AnswerOptions, memory: Any
    ) -> tuple[Prediction, Any]:
        """Returns the prediction for a request of one prompt, and the memory for the next frame or round."""
        row, memory = self._select(request, options, memory)
        return make_prediction_fn(self.engine, options, geometry)(prompt, row), memory

    def _select(self, request: Request, options: AnswerOptions, memory: Any = None) -> tuple[dict[str, np.ndarray], Any]:
        """Returns the arrays of the answer to a request of one prompt on one frame, [1, 1, ...], and the memory for the next
        frame or round."""
        outputs, memory = self.engine.select(request, options, memory)
        if not outputs.pop("finite").all():
            raise UserError("the outputs of the model are not finite, so its weights are damaged; use another checkpoint")
        return {name: value[0] for name, value in outputs.items()}, memory

    def _make_request(self, example: Example, cache_features: bool = True) -> tuple[Request, Geometry]:
        """Returns a batch of one example with one prompt, in the smallest bucket that fits it, and the geometry of its frames
        in the model input."""
        height, width = example.frames.shape[1:3]
        check_canvas(height, width, example.name)
        processor = self._processor.for_bucket(self._processor.bucket(example))
        batch = jax.tree.map(lambda x: x[None], processor(example, train=False))
        geometry = processor.geometry(height, width)
        request = Request(
            processor, batch, geometry_array(geometry)[None], canvas_size(*geometry.original), cache_features=cache_features
        )
        return request, geometry


def read_image(image: ImageLike) -> np.ndarray:
    """Returns the image as uint8 [H, W, 3], upright and on white (untrusted/images). Raises UserError with the file name if it
    cannot be read."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise UserError(f"the image is {image.dtype} {image.shape}; give uint8 [height, width, 3]")
        return image
    if isinstance(image, Image.Image):
        try:
            exif = image.info.get("exif")
            return images.to_rgb(image, parse_orientation(exif) if isinstance(exif, bytes) else UPRIGHT)
        except ValueError as error:
            raise UserError(f"cannot convert the image to RGB: {error}") from error
    if not isinstance(image, str | os.PathLike):
        raise UserError(f"the image is {check.describe(image)}; give a path, a PIL image, or uint8 [height, width, 3]")
    return files.read_image(pathlib.Path(image))


def _read_images(frames: Iterable[ImageLike] | str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Yields the frames of a video."""
    frames = check.check_frames(frames)
    return map(read_image, read_frames(frames) if isinstance(frames, str | os.PathLike) else frames)


def load(name: str | os.PathLike) -> Model:
    """Loads a model with Model.load; it is cached until the model file changes."""
    if not isinstance(name, str | os.PathLike):
        raise UserError(f"the model is {check.describe(name)}; give a name, or the path of a workdir or model folder")
    folder = model_folder.find_model_folder(name)
    return _load(folder.absolute(), (folder / "model.safetensors").stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _load(folder: pathlib.Path, modified_ns: int) -> Model:
    """Loads the model of a folder, cached. modified_ns: time of the last change of the model file, which is a part of the cache
    key."""
    return Model.load(folder)


def _image_example(image: np.ndarray, prompt: Prompt) -> Example:
    return Example("the image", image[None], (prompt,))


def _stack_frames(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks frames of a video. Raises UserError if their sizes differ."""
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise UserError(f"the frames of the video have the sizes {sorted(sizes)}; give frames of one size")
    return np.stack(frames)


def _name_masks(predicted: Prediction, names: str | tuple[str, ...]) -> Prediction:
    """Returns the prediction with named masks. names: one for each, or one text for all."""
    return dataclasses.replace(predicted, names=(names,) * len(predicted) if isinstance(names, str) else names)
