"""InstructSeg (arXiv 2412.14006).

model        the model: its modules, parameters and published names
prompts      the exact prompt strings of each task
processor    converts an Example to the arrays of one batch element
inputs       the inputs of the model from the arrays of a batch
objective    the training loss
encoding     encodes the frames of a batch separately, for caching
inference    predicts masks for a batch
postprocess  converts the outputs of a prompt to answers
checkpoints  the public checkpoints that weights are imported from
"""

import functools

from hyperseg_jax.datasets.frame_sampling import ReferenceFrames
from hyperseg_jax.systems.instructseg import (
    checkpoints,
    encoding,
    inference,
    inputs,
    model,
    objective,
    postprocess,
    processor,
)
from hyperseg_jax.systems.psalm import lengths, parts, tokenizer, writer
from hyperseg_jax.systems.system import System

SYSTEM = System(
    name="instructseg",
    build=model.build_model,
    init=model.init_params,
    tokenizer=tokenizer.load_tokenizer,
    processor=processor.make_processor,
    counts=objective.make_counts,
    loss=objective.make_loss,
    shorten=lengths.shorten,
    needed_length=lengths.needed_length,
    reference_frames=lambda config: ReferenceFrames(config.data.reference_frames),
    predict=inference.make_predict,
    answers=postprocess.ANSWERS,
    encode=encoding.make_encodings,
    write=functools.partial(writer.make_writer, tokens=inputs.slot_name(0)),
    weight_table=model.weight_table,
    source_checkpoints=checkpoints.CHECKPOINTS,
    extra_names=(),
    published_fields=(checkpoints.FORM,),
    untrained=lambda config: (checkpoints.UNTRAINED,),
    hf_config=checkpoints.hf_config,
    parts=parts.make_parts(model.build_model),
    unsupported_parts=parts.UNSUPPORTED,
    adapters=functools.partial(parts.adapters, model.build_model),
)
