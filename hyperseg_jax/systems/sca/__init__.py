"""SCA, Segment and Caption Anything (arXiv 2312.00869): captions of regions, on SAM.

model        the model: its modules, parameters and published names
images       images and boxes as inputs of the model; large-scale jitter
texts        captions as token ids
processor    converts an Example to the arrays of one batch element
objective    the training loss
inference    masks and captions of regions
checkpoints  the public checkpoints that weights are imported from
"""

from hyperseg_jax.systems.sam import postprocess
from hyperseg_jax.systems.sca import checkpoints, inference, model, objective, processor, texts
from hyperseg_jax.systems.system import System

SYSTEM = System(
    name="sca",
    build=model.build_model,
    init=model.init_params,
    tokenizer=texts.load_tokenizer,
    processor=processor.make_processor,
    counts=objective.make_counts,
    loss=objective.make_loss,
    predict=inference.make_predict,
    answers=postprocess.ANSWERS,
    encode=inference.make_encodings,
    propose=inference.make_propose,
    write=inference.make_writer,
    decoding=inference.default_decoding,
    weight_table=model.weight_table,
    source_checkpoints=checkpoints.CHECKPOINTS,
    extra_names=(),
    published_fields=(checkpoints.PUBLISHED_READS,),
    hf_config=checkpoints.hf_config,
    parts=checkpoints.make_parts(),
    interactive=True,
)
