"""What a user holds: a trained model that segments images and videos, and answers questions about them."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.regions import points_at_something
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.engine import NEW_TOKENS, TEXT, AnswerOptions, Engine, Request, prediction_fn
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.results.mask_resize import canvas, geometry_array
from hyperseg_jax.structs import Example, Prediction, Prompt, Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted import images
from hyperseg_jax.weights import model_folder

ImageLike = np.ndarray | Image.Image | str | os.PathLike


class Model:
    """A loaded model. Methods take an image as a path, a PIL image, or uint8 [H, W, 3]. Predictions iterate as segments, each
    with .mask, .score and .label. Further prompts about one of the last two images reuse what was encoded of it.

    config, tokenizer, params: what it was loaded with. engine: what validation and benchmarks ask as well.
    """

    def __init__(self, config: ml_collections.ConfigDict, tokenizer: Tokenizer, params: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._system = systems.get(config.system)
        self._processor = self._system.processor(config, tokenizer, {})
        self.params = jax.device_put(params)
        self.engine = Engine.from_system(self._system, config, self.params)

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Model:
        """A workdir of `hyperseg train`, a model folder, or a shipped model by name ("tiny")."""
        folder = model_folder.find(name)
        config = model_folder.read_config(folder)
        tokenizer = systems.get(config.system).tokenizer(config, folder)
        expected = model_folder.expected_params(folder, config)
        return cls(config, tokenizer, model_folder.load_params(folder, expected))

    def segment(
        self,
        image: ImageLike,
        text: str,
        *,
        no_target_threshold: float | types.EllipsisType | None = ...,
        soft: bool = False,
        reasoning: bool = False,
    ) -> Prediction:
        """What the text names: one mask (several things named at once share it), or none.

        no_target_threshold: below this probability of the expression, the prediction is empty; by default the system's. None
        always predicts a mask, as the published model does. soft: the mask as probabilities, float32. reasoning: the text
        is a question whose answer is to be segmented ("what could one sit on?"), asked with the prompt of reasoning
        segmentation."""
        prompt = Prompt(task="reasoning" if reasoning else "referring", text=_text(text))
        options = self._options("soft_expression" if soft else "expression", no_target_threshold=no_target_threshold)
        predicted, _ = self._ask(read_image(image), prompt, options)
        return _named(predicted, text)

    def segment_classes(
        self,
        image: ImageLike,
        classes: Sequence[str],
        *,
        stuff: Sequence[str] = (),
        threshold: float | types.EllipsisType = ...,
        overlap: float | types.EllipsisType = ...,
    ) -> Prediction:
        """Every instance of the named things, and the named stuff, without overlap; .ids is the map of segments.

        threshold: what the class probability of a segment must exceed; overlap: the part of it that must stay visible; by
        default the system's."""
        names = (*map(_text, classes), *map(_text, stuff))
        things = (True,) * len(classes) + (False,) * len(stuff)
        prompt = Prompt(task="panoptic", classes=names, things=things)
        return self._ask(read_image(image), prompt, self._options("panoptic", segment=threshold, overlap=overlap))[0]

    def segment_regions(
        self, image: ImageLike, regions: Sequence[np.ndarray | Region], *, labels: Sequence[str] = ()
    ) -> Prediction:
        """The object behind each drawn region: a Region of points, boxes, scribbles or a mask, or a rough mask, bool [H, W]."""
        frame = read_image(image)
        prompt = _about_regions("region", frame, regions)
        named = _labelled(regions, labels)
        predicted, _ = self._ask(frame, prompt, self._options("regions"))
        return dataclasses.replace(predicted, names=named)

    def segment_rounds(
        self, image: ImageLike, rounds: Iterable[Sequence[np.ndarray | Region]], *, labels: Sequence[str] = ()
    ) -> Iterator[Prediction]:
        """Round by round, the objects behind all that is drawn so far; regions of before keep their places. An interactive
        system (System.interactive) sees what it made of the round before, as in benchmarks of clicks; others answer each round
        alone."""
        frame, memory = read_image(image), None
        for regions in rounds:
            prompt, named = _about_regions("region", frame, regions), _labelled(regions, labels)
            predicted, seen = self._ask(frame, prompt, self._options("regions"), memory)
            memory = seen if self.engine.interactive else None
            yield dataclasses.replace(predicted, names=named)

    def segment_clip(
        self, frames: Iterable[ImageLike], text: str, *, no_target_threshold: float | types.EllipsisType | None = ...
    ) -> Iterator[tuple[np.ndarray, Prediction]]:
        """Frame by frame: (image, prediction). What the model saw of a frame feeds the next; memory stays that of one frame."""
        prompt, memory = Prompt(task="video", text=_text(text)), None
        options = self._options("expression", no_target_threshold=no_target_threshold)
        for image in frames:
            frame = read_image(image)
            predicted, memory = self._ask(frame, prompt, options, memory, cache_features=False)
            yield frame, _named(predicted, text)

    def chat(self, image: ImageLike, question: str, *, max_new_tokens: int = NEW_TOKENS) -> str:
        """The model's answer in words, at most that many tokens of it, always the most probable one."""
        return self._written(read_image(image), Prompt(task="chat", text=question), max_new_tokens)[0]

    def caption_regions(
        self, image: ImageLike, regions: Sequence[np.ndarray | Region], *, max_new_tokens: int = NEW_TOKENS
    ) -> tuple[str, ...]:
        """A text for each drawn region (a Region, or bool [H, W]), at most that many tokens of it. UserError where the system
        writes none."""
        frame = read_image(image)
        return self._written(frame, _about_regions("caption", frame, regions), max_new_tokens)

    def _written(self, frame: np.ndarray, prompt: Prompt, max_new_tokens: int) -> tuple[str, ...]:
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens = {max_new_tokens}: ask for at least 1")
        request, geometry = self._request(Example("the image", frame[None], (prompt,)))
        row = {"texts": self.engine.generate(request, max_new_tokens=max_new_tokens)[0]}
        return prediction_fn(self.engine, AnswerOptions(TEXT, self.engine.answers.usual), geometry)(prompt, row).texts

    def _options(self, kind: str, **thresholds: float | types.EllipsisType | None) -> AnswerOptions:
        """The system's usual thresholds, but for those that are given."""
        given = {name: value for name, value in thresholds.items() if value is not ...}
        return AnswerOptions(kind, dataclasses.replace(self.engine.answers.usual, **given))  # type: ignore[arg-type]

    def _ask(
        self, frame: np.ndarray, prompt: Prompt, options: AnswerOptions, memory: Any = None, *, cache_features: bool = True
    ) -> tuple[Prediction, Any]:
        """Returns the prediction for one prompt and image, and the memory for the next frame. cache_features: see Request."""
        request, geometry = self._request(Example("the image", frame[None], (prompt,)), cache_features)
        found, memory = self.engine.select(request, options, memory)
        if not found.pop("finite").all():
            raise UserError("the outputs of the model are not finite, so its weights are damaged; take another save")
        row = {name: value[0] for name, value in found.items()}
        return prediction_fn(self.engine, options, geometry)(prompt, row), memory

    def _request(self, example: Example, cache_features: bool = True) -> tuple[Request, Geometry]:
        """A batch of one example of one frame and one prompt, in the smallest bucket that holds it; and how the frame lies in
        the model's input."""
        processor = self._processor.for_bucket(self._processor.bucket(example))
        batch = jax.tree.map(lambda x: x[None], processor(example, train=False))
        geometry = processor.geometry(*example.frames.shape[1:3])
        request = Request(
            processor, batch, geometry_array(geometry)[None], canvas(*geometry.original), cache_features=cache_features
        )
        return request, geometry


def read_image(image: ImageLike) -> np.ndarray:
    """uint8 [H, W, 3]. Raises UserError naming the file where it cannot be read."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise UserError(f"the image is {image.dtype} {image.shape}; give uint8 [height, width, 3]")
        return image
    if isinstance(image, Image.Image):
        try:
            return images.rgb(image)
        except ValueError as error:
            raise UserError(f"the image cannot be taken: {error}") from error
    return files.read_image(pathlib.Path(image))


def load(name: str | os.PathLike) -> Model:
    """Model.load, once for each model file as it lies there now."""
    folder = model_folder.find(name)
    return _load(folder.absolute(), (folder / "model.safetensors").stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _load(folder: pathlib.Path, _: int) -> Model:
    return Model.load(folder)


def _text(text: str) -> str:
    if not text.strip(" ."):
        raise UserError("the prompt is empty; say what to segment")
    return text.strip()


def _about_regions(task: str, frame: np.ndarray, regions: Sequence[np.ndarray | Region]) -> Prompt:
    """A prompt about drawn regions. UserError where the mask of one does not fit the image; a processor judges other marks."""
    drawn = tuple(region if isinstance(region, Region) else Region.of_mask(region) for region in regions)
    for k, region in enumerate(drawn):
        if region.mask is None:
            continue
        size = region.mask.shape
        if size != frame.shape[:2]:
            raise UserError(f"region {k + 1} has size {size}, the image {frame.shape[:2]}; give it the same size")
        if not points_at_something(region):
            raise UserError(f"region {k + 1} is empty; draw it inside the image")
    if not drawn:
        raise UserError("no regions are given; draw at least one")
    return Prompt(task=task, regions=drawn)


def _labelled(regions: Sequence[Any], labels: Sequence[str]) -> tuple[str, ...]:
    """A name for each region."""
    if labels and len(labels) != len(regions):
        raise UserError(f"{len(labels)} labels for {len(regions)} regions; give one label for each region")
    return tuple(labels) or tuple(f"region {k + 1}" for k in range(len(regions)))


def _named(predicted: Prediction, name: str) -> Prediction:
    """Every mask named as the user said it."""
    return dataclasses.replace(predicted, names=(name,) * len(predicted))
