"""The public checkpoints that IFSeg's weights are imported from: the authors' and OFA, both written by fairseq."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import ml_collections

from hyperseg_jax.errors import UserError
from hyperseg_jax.systems.ifseg.model import CLASS_TABLES, DECODER_INPUTS, WORD_TABLES
from hyperseg_jax.tables import PublishedField, Rule, SourceCheckpoint

WORDS = WORD_TABLES[0]
PUBLISHED_FIELDS = (
    PublishedField("model.decoder_input", DECODER_INPUTS),
    PublishedField("model.decoder.causal", (True, False)),
)
"""Both values of each are switches of the authors' code; their scripts use the first."""
COUNTERS = Rule(r".*\.num_batches_tracked", "batch norms are frozen, and their counters are not used")
OUTPUT = Rule(r"decoder\.output_projection\.weight", "the rows of the classes take the place of OFA's output words")
CLASSES = Rule("|".join(CLASS_TABLES).replace(".", r"\."), "the rows of the classes are computed from the word embeddings")
POSITIONS = Rule(
    r"decoder\.(embed_seg_positions|seg_pos_ln|seg_rel_pos_table_list\.\d+)\.(weight|bias)",
    "OFA has no positions of cells in its decoder; they are randomly initialized, and the first that IFSeg learns",
)
UNTRAINED = (
    Rule(
        r"decoder\.(embed_image_positions|image_pos_ln|code_layernorm_embedding|image_rel_pos_table_list\.\d+)\.(weight|bias)",
        "OFA's decoder of image codes needs them",
    ),
)


def check_vocabulary(added: int, shapes: Mapping[str, tuple[int, ...]], config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the word embeddings are those of another vocabulary: a model would be imported whose classes are
    random words. added: number of rows that are added to those of the file."""
    rows, size = shapes.get(WORDS, (0,))[0], config.model.vocab_size
    if WORDS in shapes and rows + added != size:
        raise UserError(
            f"{WORDS} has {rows} rows, and model.vocab_size = {size} needs {size - added}: another vocabulary, such as that of "
            "the Chinese OFA; give a checkpoint of the English OFA"
        )


IFSEG = SourceCheckpoint(
    "IFSeg",
    mark=r"decoder\.seg_projection\.weight",
    file="checkpoint_best.pt or another checkpoint of the authors' code",
    ignored=(COUNTERS, OUTPUT),
    sizes=(("model.num_classes", (CLASS_TABLES[-1], 0)),),
    check_shapes=functools.partial(check_vocabulary, 0),
)
OFA = SourceCheckpoint(
    "OFA",
    mark=r"decoder\.code_layernorm_embedding\.weight",
    file="ofa_base.pt of OFA-Sys, without fine-tuning, which training without images starts from",
    ignored=(COUNTERS, OUTPUT),
    initialized=(CLASSES, POSITIONS),
    added_rows=((WORDS, 1), (WORD_TABLES[-1], 1)),
    check_shapes=functools.partial(check_vocabulary, 1),
)
"""Its word embeddings have one row less than IFSeg's, whose last row is never read."""
CHECKPOINTS = (IFSEG, OFA)


def hf_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config.json of an export; the authors' code reads none."""
    return {"architectures": ["segofa"], "model_type": "ifseg"}
