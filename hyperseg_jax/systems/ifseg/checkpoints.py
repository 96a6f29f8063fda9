"""The public checkpoints that IFSeg's weights are imported from: the authors' and OFA, both written by fairseq."""

from __future__ import annotations

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
        r"decoder\.(embed_positions|embed_image_positions|pos_ln|image_pos_ln|code_layernorm_embedding|"
        r"token_rel_pos_table_list\.\d+|image_rel_pos_table_list\.\d+)\.(weight|bias)",
        "OFA's decoder of texts and image codes needs them, and segmentation does not",
    ),
)


def check_vocabulary(shapes: Mapping[str, tuple[int, ...]], config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the word embeddings are those of another vocabulary: a model would be imported whose classes are
    random words."""
    for name in WORD_TABLES:
        if name in shapes and len(shapes[name]) == 2 and shapes[name][0] != config.model.vocab_size:
            raise UserError(
                f"{name} has {shapes[name][0]} rows, and the config has model.vocab_size = {config.model.vocab_size}: another "
                "vocabulary, such as that of the Chinese OFA; give a checkpoint of the English OFA"
            )


IFSEG = SourceCheckpoint(
    "IFSeg",
    mark=r"decoder\.seg_projection\.weight",
    file="checkpoint_best.pt or another checkpoint of the authors' code",
    ignored=(COUNTERS, OUTPUT),
    sizes=(("model.num_classes", (CLASS_TABLES[-1], 0)),),
    check_shapes=check_vocabulary,
)
OFA = SourceCheckpoint(
    "OFA",
    mark=r"decoder\.code_layernorm_embedding\.weight",
    file="ofa_base.pt of OFA-Sys, without fine-tuning, which training without images starts from",
    ignored=(COUNTERS, OUTPUT),
    initialized=(CLASSES, POSITIONS),
    added_rows=((WORDS, 1), (WORD_TABLES[-1], 1)),
    check_shapes=check_vocabulary,
)
"""Its word embeddings have one row less than IFSeg's, whose last row is never read."""
CHECKPOINTS = (IFSEG, OFA)


def hf_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config.json of an export; the authors' code reads none."""
    return {"architectures": ["segofa"], "model_type": "ifseg"}
