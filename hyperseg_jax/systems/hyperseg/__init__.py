"""HyperSeg (arXiv 2411.17606).

model        the model: its modules, parameters and published names
prompts      the exact prompt strings of each task
entities     how the answer to a class list names what is in the image (hybrid entity recognition)
recognition  writes the names, and predicts the masks behind them
processor    converts an Example to the arrays of one batch element
temporal     what a frame of a video passes to the next ones (temporal adapter)
frames       runs the model over the frames of a batch
objective    the training loss
encoding     encodes parts of the input that are independent of the prompt, for caching
inference    predicts masks for a batch
postprocess  converts the outputs of a prompt to answers
checkpoints  the public checkpoints that weights are imported from
toy_tokenizer  writes the tokenizer of the toy world
"""

import functools

from hyperseg_jax.systems.hyperseg import (
    checkpoints,
    encoding,
    entities,
    inference,
    model,
    objective,
    postprocess,
    processor,
)
from hyperseg_jax.systems.psalm import lengths, parts, tokenizer, writer
from hyperseg_jax.systems.system import System

SYSTEM = System(
    name="hyperseg",
    build=model.build_model,
    init=model.init_params,
    tokenizer=tokenizer.load_tokenizer,
    processor=processor.make_processor,
    counts=objective.make_counts,
    loss=objective.make_loss,
    shorten=lengths.shorten,
    needed_length=lengths.needed_length,
    predict=inference.make_predict,
    answers=postprocess.ANSWERS,
    encode=encoding.make_encodings,
    split_names=entities.name_splitter,
    give=entities.make_give,
    write=writer.make_writer,
    weight_table=model.weight_table,
    source_checkpoints=checkpoints.CHECKPOINTS,
    extra_names=(checkpoints.GATES, checkpoints.AGGREGATION),
    published_fields=(checkpoints.RECOGNITION, *checkpoints.TEMPORAL),
    prediction_fields=(*entities.PREDICTION_FIELDS, "frames"),
    untrained=checkpoints.untrained,
    hf_config=checkpoints.hf_config,
    parts=parts.make_parts(model.build_model),
    unsupported_parts=parts.UNSUPPORTED,
    adapters=functools.partial(parts.adapters, model.build_model),
)
