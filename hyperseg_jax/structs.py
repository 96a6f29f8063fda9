"""Data structures shared between packages."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Shaped, UInt8

from hyperseg_jax.errors import UserError

Array = jax.Array | np.ndarray

if TYPE_CHECKING:
    DeviceArray = jax.Array
else:
    DeviceArray = Array
"""An array in model code. JAX also accepts NumPy arrays; mypy only sees jax.Array."""

IGNORED = -100
"""The label of positions without a loss (PyTorch's ignore_index, used by every published dataset)."""

TASKS = ("referring", "reasoning", "panoptic", "region", "video", "chat", "caption")
KINDS = ("point", "scribble", "box", "mask")
"""Kinds of regions."""
_MAX_POINTS, _MAX_COORDINATE, _MAX_LENGTH, _MAX_RADIUS = 4096, 1e6, 1e6, 256
"""Limits of a region, since drawing time grows with each: number of points, boxes or scribble vertices; absolute coordinate in
pixels; total length of its scribbles in pixels; radius in pixels."""


@flax.struct.dataclass
class Pyramid:
    """Feature maps of one image at several strides, fine to coarse.

    levels: feature maps of H/stride x W/stride cells.
    strides: pixels per cell of each level.
    """

    levels: tuple[Float[DeviceArray, "B _ _ _"], ...]
    strides: tuple[int, ...] = flax.struct.field(pytree_node=False)


class Source(enum.IntEnum):
    """What a token position holds: the origin of its embedding."""

    PADDING = 0
    TEXT = 1
    IMAGE = 2
    RESAMPLED = 3  # the output of a perceiver: fine-grained tokens, or those of reference frames
    EXPRESSION = 4  # text of the expression, pooled into its embedding
    CLASS = 5  # text of a class name, pooled into the embedding of its class
    REGION = 6
    QUERY = 7
    NAME = 8  # text of the answer that names entities, pooled by class where these names classify the masks


@flax.struct.dataclass
class Layout:
    """The prompts of an image as fixed-length arrays, [L] on the host and [B, L] on the device.

    Several prompts are packed into one sequence: their common prefix (mainly the image) comes once at the start, followed by
    the remainder of each prompt, which attends to the prefix and to itself. The result of a causal model is the same as for
    each prompt in a sequence of its own.

    text_ids: token ids at TEXT, EXPRESSION, CLASS and NAME positions, 0 elsewhere.
    source: a Source. index: index of the position among the positions with this source, from 0.
    segment: number of the group of positions that are pooled into one embedding: 1 for the expression, k for class or region k
        (from 1), also for the names of class k, 0 elsewhere.
    labels: target token of this position (not shifted), -100 where there is no target.
    mask: True where other positions may attend to this one.
    prompt: prompt number from 1; 0 at positions that all prompts share.
    position: position id within the prompt.
    """

    text_ids: Int[Array, "*B L"]
    source: Int[Array, "*B L"]
    index: Int[Array, "*B L"]
    segment: Int[Array, "*B L"]
    labels: Int[Array, "*B L"]
    mask: Bool[Array, "*B L"]
    prompt: Int[Array, "*B L"]
    position: Int[Array, "*B L"]

    def part(self, start: int, stop: int | None = None) -> Layout:
        """Returns the token positions from start (included) to stop (excluded) of a batch of layouts."""
        part: Layout = jax.tree.map(lambda field: field[:, start:stop], self)
        return part


@flax.struct.dataclass
class TokenStream:
    """The input sequence of the language model, mixed from text, image and query embeddings.

    mask: True at tokens, False at padding.
    source: the Source of each position.
    prompt: the prompt number of each position; a position attends to its own prompt and to prompt 0. None: one prompt per row.
    """

    embeddings: Float[DeviceArray, "B L D"]
    positions: Int[DeviceArray, "B L"]
    mask: Bool[DeviceArray, "B L"]
    source: Int[DeviceArray, "B L"]
    prompt: Int[DeviceArray, "B L"] | None = None

    @classmethod
    def of_text(cls, embeddings: Float[DeviceArray, "B L D"], mask: Bool[DeviceArray, "B L"] | None = None) -> TokenStream:
        """Returns the stream of one text per row, at positions from 0. mask: by default, all positions are tokens."""
        size = embeddings.shape[:2]
        positions = np.broadcast_to(np.arange(size[1], dtype=np.int32), size)
        tokens: Any = np.ones(size, bool) if mask is None else mask
        return cls(embeddings, positions, tokens, np.full(size, Source.TEXT, np.int32))  # type: ignore[arg-type]


@flax.struct.dataclass
class MaskPrediction:
    """The output of a mask decoder for its queries.

    mask_logits: at the stride of the mask features.
    scores: raw logits by kind: "expression" [B, Q], "class" [B, Q, C], "region" [B, Q, R], "box_iou" [B, Q].
    boxes: cxcywh in 0..1, or None.
    embeddings: by kind: "query" [B, Q, D] (last layer, before the final norm), "reid" [B, Q, D], "mask" (see mask_features).
    stages: one dict for each intermediate prediction (deep supervision and golden tests): "mask_logits", "scores",
        "boxes" (if there are any), "mask_embedding" [B, Q, D] (see mask_features), and "attention_mask" [B, Q, hw] (True =
        masked, before fully masked rows are unmasked) of the following layer.
    mask_features: features of the images, each with the same number of consecutive rows, whose products with the mask
        embeddings are the mask logits; None: the logits have no such form.
    """

    mask_logits: Float[DeviceArray, "B Q h w"]
    scores: dict[str, Float[DeviceArray, "B Q *C"]]
    boxes: Float[DeviceArray, "B Q 4"] | None = None
    embeddings: dict[str, Float[DeviceArray, "B Q _"]] = flax.struct.field(default_factory=dict)
    stages: tuple[dict[str, Any], ...] = ()
    mask_features: Float[DeviceArray, "images h w D"] | None = None


@dataclasses.dataclass(frozen=True)
class Region:
    """A visual prompt: points, boxes, scribbles or a mask that mark one object, in pixels from the image's top left corner.

    kind: one of KINDS; scores are grouped by it.
    points: x, y, and 1 for a positive or 0 for a negative click. Pixel (column, row) has its centre at (column + 0.5,
        row + 0.5) and contains all coordinates that are rounded down to it.
    boxes: left, top, right, bottom. scribbles: polylines of x, y vertices. mask: of the image's size, or None.
    radius: pixels by which the mask of a point or scribble is still to be dilated; None: the default of the system.
    Raises UserError for coordinates of a wrong shape, too many coordinates, or values that are not finite.
    """

    kind: str
    points: Float64[np.ndarray, "N 3"] = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))
    boxes: Float64[np.ndarray, "M 4"] = dataclasses.field(default_factory=lambda: np.zeros((0, 4)))
    scribbles: tuple[Float64[np.ndarray, "_ 2"], ...] = ()
    mask: Bool[np.ndarray, "H W"] | None = None
    radius: int | None = 0

    def __post_init__(self) -> None:
        if self.radius is not None and not (type(self.radius) is int and 0 <= self.radius <= _MAX_RADIUS):
            raise UserError(
                f"a region has the radius {str(self.radius)[:40]}; give an integer from 0 to {_MAX_RADIUS}, or None"
            )
        if self.kind not in KINDS:
            raise UserError(f"a region has the kind {str(self.kind)[:40]!r}; use one of {', '.join(KINDS)}")
        points, boxes = _check_coordinates("points", self.points, 3), _check_coordinates("boxes", self.boxes, 4)
        if not isinstance(self.scribbles, Sequence | np.ndarray) or isinstance(self.scribbles, str | bytes):
            raise UserError("the scribbles of a region are no list; give a list of polylines, each [[x, y], ...]")
        is_plane = isinstance(self.mask, np.ndarray) and self.mask.ndim in (0, 2)  # 0: a number in a build, not decoded yet
        if self.mask is not None and not is_plane:
            raise UserError("the mask of a region is no array [height, width]; give a bool array")
        if len(self.scribbles) > _MAX_POINTS:
            raise UserError(f"a region has {len(self.scribbles)} scribbles; give {_MAX_POINTS} at most")
        scribbles = tuple(_check_coordinates("scribbles", line, 2) for line in self.scribbles)
        if not np.isin(points[:, 2], (0, 1)).all():
            raise UserError("a point of a region has an invalid third number; give 1 (positive) or 0 (negative)")
        if (boxes[:, :2] > boxes[:, 2:]).any():
            raise UserError("a box of a region has left > right or top > bottom; give left, top, right, bottom")
        if not all(map(len, scribbles)):
            raise UserError("a scribble of a region is empty; give at least one vertex")
        if (vertices := sum(map(len, scribbles))) > _MAX_POINTS:
            raise UserError(f"the scribbles of a region have {vertices} vertices; give {_MAX_POINTS} at most")
        if sum(float(np.abs(np.diff(line, axis=0)).sum()) for line in scribbles) > _MAX_LENGTH:
            raise UserError(f"the scribbles of a region are longer than {_MAX_LENGTH:.0f} pixels; give fewer vertices")
        for name, value in (("points", points), ("boxes", boxes), ("scribbles", scribbles)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_point(cls, x: float, y: float) -> Region:
        """Creates a region from a point on the object, in pixels."""
        return cls("point", points=np.array([[x, y, 1]]))

    @classmethod
    def from_box(cls, left: float, top: float, right: float, bottom: float) -> Region:
        """Creates a region from a box around the object, in pixels."""
        return cls("box", boxes=np.array([[left, top, right, bottom]]))

    @classmethod
    def from_scribble(cls, corners: Shaped[np.ndarray, "L 2"] | Sequence[Sequence[float]]) -> Region:
        """Creates a region from a polyline. corners: its vertices as x, y."""
        return cls("scribble", scribbles=(np.asarray(corners),))

    @classmethod
    def from_mask(cls, mask: Shaped[np.ndarray, "H W"], kind: str = "mask", radius: int | None = 0) -> Region:
        """Creates a region from a mask. kind: how the mask was drawn. Raises UserError for other values than bool, 0 and 1, or
        0 and one positive integer."""
        return cls(kind, mask=_as_bool(np.asarray(mask)), radius=radius)


def _as_bool(mask: Shaped[np.ndarray, "*S"]) -> Bool[np.ndarray, "*S"]:
    """Converts a mask to bool. Raises UserError if it has other values than 0 and 1, or 0 and one positive integer: only its
    author knows where a soft mask is to be cut."""
    if mask.dtype == bool:
        return mask
    values = np.unique(mask[mask != 0]) if mask.dtype.kind in "iuf" else np.zeros(2)
    if len(values) > 1 or not (values == 1 if mask.dtype.kind == "f" else values > 0).all():
        raise UserError(f"a mask is {mask.dtype} with several values; give bool [height, width], such as mask > 0.5")
    return mask != 0


def _check_coordinates(what: str, values: Any, columns: int) -> np.ndarray:
    """Returns coordinates of a region as float64 [N, columns]. Raises UserError if they are invalid. what: their name in
    messages."""
    try:
        array = np.asarray(values)
        if array.size and array.dtype.kind not in "iufb":  # NumPy converts texts to numbers
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the {what} of a region are not numbers; give {columns} numbers for each row") from error
    if not array.size:
        return np.zeros((0, columns))
    if array.ndim != 2 or array.shape[1] != columns or len(array) > _MAX_POINTS:
        raise UserError(
            f"the {what} of a region have the shape {array.shape}; give up to {_MAX_POINTS} rows of {columns} numbers"
        )
    if not (np.abs(array) < _MAX_COORDINATE).all():
        raise UserError(
            f"the {what} of a region have a coordinate that is not finite, or not below {_MAX_COORDINATE:.0f}; correct it"
        )
    return array


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt of an example with its targets, on the host.

    task: one of TASKS.
    text: the expression (referring, reasoning, video) or the question (chat).
    answer: the target text (chat), or the explanation of a reasoning answer; may be empty.
    history: earlier rounds of a conversation, (question, answer) each (chat). Training includes their answers.
    needs_reasoning: whether the objects of the text follow only by reasoning (video; ReVOS), not from a description of them.
    answers: all answers that the benchmark accepts, with repetitions (VQAv2: ten annotators); () if there is only one.
    classes: the class list of a panoptic prompt, without "background".
    things: for each class, whether it has instances (thing) or not (stuff).
    masks: target masks. referring, reasoning, video: one mask (the union of all objects that the text refers to), or none if no
        object matches; panoptic: one per segment; region, and caption if its reader gives masks: one per region, in order.
    labels: N integers: class of each mask (panoptic) or region of each mask (region, caption).
    regions: the visual prompts of a region or caption task; () otherwise. Their coordinates are of the first frame, or of
        Example.drawn_on if it is given.
    captions: the texts of each region (caption), one or several that are equally good; () if they are not known.
    ignore: pixels that all metrics ignore; None if every pixel counts.
    crowds: the ignored pixels that are crowds of a class (panoptic), with their crowd_labels.
    entities: names of what is in the image, in the order in which the answer names them (panoptic); None: those of the targets
        in training, and in prediction the model writes them.
    areas: area of each mask in pixels according to the annotations (COCO: of the polygons); () if they have none.
    others: further objects of the video, to which no prompt refers but which some scores count (video).
    foreground: the union of all objects of the video, referred to or not (video), for the robustness score of ReVOS.
    group: a tag for grouped scores: "attribute", "relation", "plural", "absent", "counting", ...
    key: the benchmark's id of the question (question_id, image_id, index), which its evaluation server expects.
    """

    task: str
    text: str = ""
    answer: str = ""
    answers: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    things: tuple[bool, ...] = ()
    masks: Bool[np.ndarray, "N T H W"] | None = None
    labels: tuple[int, ...] = ()
    regions: tuple[Region, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    ignore: Bool[np.ndarray, "T H W"] | None = None
    group: str = ""
    crowds: Bool[np.ndarray, "_ T H W"] | None = None
    crowd_labels: tuple[int, ...] = ()
    foreground: Bool[np.ndarray, "T H W"] | None = None
    areas: tuple[float, ...] = ()
    others: Bool[np.ndarray, "_ T H W"] | None = None
    key: str = ""
    history: tuple[tuple[str, str], ...] = ()
    needs_reasoning: bool = False
    entities: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """One record of a benchmark: an image or video and its prompts.

    name: unique within its file, used in all messages ("val.json#12").
    frames: T = 1 for an image, 0 for a record without pixels (text-only training).
    prompts: at least one; all prompts share the frames.
    frame_names: names of the frames of a video, as the evaluation server expects them; () if they are not needed.
    drawn_on: the image on which the regions of the prompts were drawn; None if it is the first frame.
    frame_numbers: positions of the frames in their video, for a queried frame with its reference frames; () if they are the
        whole video or clip.
    """

    name: str
    frames: UInt8[np.ndarray, "T H W 3"]
    prompts: tuple[Prompt, ...]
    frame_names: tuple[str, ...] = ()
    drawn_on: UInt8[np.ndarray, "_ _ 3"] | None = None
    frame_numbers: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Segment:
    """One mask of a prediction. mask: at the image's original size, binary or probabilities. score: 0..1, NaN if the
    prediction has no scores. label: the text or class that it was predicted for. track_id: of its instance, the same on all
    frames of a video; -1 if instances are not tracked."""

    mask: Bool[np.ndarray, "H W"] | Float32[np.ndarray, "H W"]
    score: float
    label: str
    track_id: int = -1


@dataclasses.dataclass(frozen=True)
class WrittenName:
    """A name that the model wrote before it segmented. label: index of its class, None if the class list does not have it."""

    name: str
    label: int | None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one prompt and one frame. Iterating yields its masks as Segments.

    masks: at the image's original size, binary or probabilities.
    labels: N class indices into prompt.classes; () for prompts without classes.
    scores: N numbers in 0..1; () if there are none.
    names: N strings, the text or class that each mask was predicted for; () if there are none.
    texts: the generated text: one, or one for each region of the prompt.
    written: the names that the model wrote before it segmented, in order; None if it writes none.
    classes, embeddings: class probabilities and appearance embeddings of the masks, if they are candidates for tracking.
    ious: for each object, its IoU after each click (interactive segmentation).
    track_ids: for each mask, the number of its instance from 0, the same on all frames of a video; () if they are not tracked.
    """

    masks: Bool[np.ndarray, "N H W"] | Float32[np.ndarray, "N H W"]
    labels: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    classes: Float32[np.ndarray, "N C"] | None = None
    embeddings: Float32[np.ndarray, "N D"] | None = None
    ious: tuple[tuple[float, ...], ...] = ()
    written: tuple[WrittenName, ...] | None = None
    track_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> Segment:
        score = self.scores[index] if self.scores else float("nan")
        track_id = self.track_ids[index] if self.track_ids else -1
        return Segment(self.masks[index], score, self.names[index] if self.names else "", track_id)

    def __iter__(self) -> Iterator[Segment]:
        return (self[k] for k in range(len(self)))

    @property
    def text(self) -> str:
        """The first generated text, or ""."""
        return self.texts[0] if self.texts else ""

    @property
    def union(self) -> Bool[np.ndarray, "H W"] | Float32[np.ndarray, "H W"]:
        """The union of all masks (their maximum); zeros if there are none."""
        return self.masks.max(0, initial=0).astype(self.masks.dtype)

    @property
    def ids(self) -> Int32[np.ndarray, "H W"]:
        """The mask number of each pixel, from 1; 0 outside all masks. Where masks overlap, the last one wins."""
        ids = np.zeros(self.masks.shape[1:], np.int32)
        for k, mask in enumerate(self.masks, 1):
            ids[mask > 0] = k
        return ids
