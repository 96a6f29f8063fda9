"""What a user holds: a trained model that segments pictures and clips, and answers questions about them."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from hyperseg_jax.data.features import to_arrays
from hyperseg_jax.datasets import files
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import Geometry, fit
from hyperseg_jax.results import answers
from hyperseg_jax.results.answers import Segment
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.layout import TokenCounts, choose_bucket, expanded_length
from hyperseg_jax.text.prompts import join_sentences, tokenize, video_expression
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights import model_folder

Picture = np.ndarray | Image.Image | str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Panoptic:
    """ids: int32 [H, W], 0 where nothing is. rows: one dict a segment, see results.answers.panoptic."""

    ids: np.ndarray
    rows: list[dict[str, Any]]


class Model:
    """A loaded model. Methods take a picture as a path, a PIL image, or uint8 [H, W, 3].

    config, tokenizer, params: what it was loaded with. predict: the system's jitted function of (params, batch).
    """

    def __init__(self, config: ml_collections.ConfigDict, tokenizer: Tokenizer, params: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._system = systems.get(config.system)
        module = self._system.build(config)
        self.params = jax.device_put(params)
        self.predict = jax.jit(self._system.predict(module, config))
        self._write = None
        if self._system.generate is not None:
            generate = self._system.generate(module, config)
            self._write = jax.jit(generate, static_argnames=("max_new_tokens", "eos_id", "vocab_size"))

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Model:
        """A workdir of `hyperseg train`, a model folder, or a shipped model by name ("tiny")."""
        folder = model_folder.find(name)
        config = model_folder.read_config(folder)
        expected = model_folder.expected_params(folder, config)
        return cls(config, Tokenizer.load(folder), model_folder.load_params(folder, expected))

    def segment(self, image: Picture, text: str, *, absent_below: float | None = 0.5, soft: bool = False) -> list[Segment]:
        """What the text names: one segment (several things named at once share it), or none.

        absent_below: the expression probability under which the answer is "not there"; None always answers, as the
        published model does. soft: the mask as probabilities, float32.
        """
        frame = read_picture(image)
        prompt = Prompt(task="referring", text=join_sentences([_text(text).rstrip(".")]))  # as RefCOCO's texts end
        found, geometry = self._run(frame[None], prompt)
        return answers.expression(
            found["mask_logits"][0], found["expression"][0], geometry, label=text, absent_below=absent_below, soft=soft
        )

    def segment_classes(
        self, image: Picture, classes: Sequence[str], *, stuff: Sequence[str] = (), threshold: float = 0.5, overlap: float = 0.8
    ) -> Panoptic:
        """Every instance of the named things, and the named stuff, without overlap."""
        names = (*map(_text, classes), *map(_text, stuff))
        things = (True,) * len(classes) + (False,) * len(stuff)
        frame = read_picture(image)
        found, geometry = self._run(frame[None], Prompt(task="panoptic", classes=names, things=things))
        return Panoptic(
            *answers.panoptic(
                found["mask_logits"][0],
                found["class"][0],
                geometry,
                classes=names,
                things=things,
                object_threshold=threshold,
                overlap_threshold=overlap,
            )
        )

    def segment_regions(self, image: Picture, regions: Sequence[np.ndarray], *, labels: Sequence[str] = ()) -> list[Segment]:
        """The object behind each drawn region (bool [H, W]: a point's disc, a scribble, a box, a rough mask)."""
        frame = read_picture(image)
        for k, region in enumerate(regions):
            if region.shape != frame.shape[:2]:
                raise UserError(f"region {k + 1} has size {region.shape}, the picture {frame.shape[:2]}; give it the same size")
            if not region.any():
                raise UserError(f"region {k + 1} is empty; draw it inside the picture")
        if not len(regions):
            raise UserError("no regions are given; draw at least one")
        prompt = Prompt(task="region", regions=np.stack(regions), kinds=("mask",) * len(regions))
        found, geometry = self._run(frame[None], prompt)
        named = tuple(labels) or tuple(f"region {k + 1}" for k in range(len(regions)))
        return answers.regions(found["mask_logits"][0], found["region"][0], geometry, labels=named)

    def segment_clip(
        self, frames: Iterable[Picture], text: str, *, absent_below: float | None = 0.5
    ) -> Iterator[tuple[np.ndarray, list[Segment]]]:
        """Frame by frame: (picture, segments). What the model saw of a frame feeds the next; memory stays that of one frame."""
        prompt, query = Prompt(task="video", text=video_expression(_text(text))), None
        for image in frames:
            frame = read_picture(image)
            found, geometry = self._run(frame[None], prompt, query)
            query = found["next_query"]
            yield (
                frame,
                answers.expression(
                    found["mask_logits"][0], found["expression"][0], geometry, label=text, absent_below=absent_below
                ),
            )

    def chat(self, image: Picture, question: str, *, max_new_tokens: int = 64) -> str:
        """The model's answer in words, at most that many tokens of it, always the most probable one."""
        if self._write is None:
            raise UserError(f"{self.config.system} writes no text; ask it to segment")
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens = {max_new_tokens}: ask for at least 1")
        batch, _ = self._batch(read_picture(image)[None], Prompt(task="chat", text=question))
        ids = np.asarray(
            self._write(
                self.params,
                batch,
                max_new_tokens=max_new_tokens,
                eos_id=self.tokenizer.eos_id,
                vocab_size=self.tokenizer.vocab_size,
            )
        )[0]
        return self.tokenizer.decode(ids[np.cumsum(ids == self.tokenizer.eos_id) == 0].tolist()).strip()

    def _run(self, frames: np.ndarray, prompt: Prompt, query: Any = None) -> tuple[dict[str, Any], Geometry]:
        """Outputs of one prompt on one picture: arrays of [T, ...] on the host, next_query on the device."""
        batch, geometry = self._batch(frames, prompt)
        out = self.predict(self.params, batch, query)
        next_query = out.pop("next_query")
        host = {name: np.asarray(value)[0, :, 0] for name, value in out.items()}
        return {**host, "next_query": next_query}, geometry

    def _batch(self, frames: np.ndarray, prompt: Prompt) -> tuple[dict[str, Any], Geometry]:
        """One prompt on one picture or clip as a batch of one."""
        sizes = self._system.batch_spec(self.config, {})
        counts = TokenCounts(sizes.image_tokens, sizes.fine_grained_tokens, sizes.queries)
        tokens = tokenize(prompt, self.tokenizer, template=sizes.template)
        sizes = dataclasses.replace(
            sizes,
            frames=len(frames),
            prompts=1,
            targets=0,
            length=choose_bucket(expanded_length(tokens, counts), tuple(self.config.data.buckets)),
            classes=len(prompt.classes) + 1 if prompt.classes else 0,
            regions=0 if prompt.regions is None else len(prompt.regions),
        )
        example = Example("the picture", frames, (prompt,))
        arrays = to_arrays(example, sizes, self.tokenizer, train=False)
        height, width = frames.shape[1:3]
        return jax.tree.map(lambda x: x[None], arrays), fit(height, width, sizes.image_size)


def read_picture(image: Picture) -> np.ndarray:
    """uint8 [H, W, 3]. Raises UserError naming the file where it cannot be read."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise UserError(f"the picture is {image.dtype} {image.shape}; give uint8 [height, width, 3]")
        return image
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    return files.read_picture(pathlib.Path(image))


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
