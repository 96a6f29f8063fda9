"""SAM, Segment Anything (arXiv 2304.02643): masks for points and boxes, without classes. It is the base of SCA.

model        the model: its modules, parameters and published names
marks        visual prompts as points and corners of boxes
processor    converts an Example to the arrays of one batch element
inference    encodes images, and predicts masks for a batch
postprocess  converts the outputs of a prompt to answers
checkpoints  the public checkpoints that weights are imported from
"""

from hyperseg_jax.systems.sam import checkpoints, inference, model, postprocess, processor
from hyperseg_jax.systems.system import System

SYSTEM = System(
    name="sam",
    build=model.build_model,
    init=model.init_params,
    processor=processor.make_processor,
    predict=inference.make_predict,
    answers=postprocess.ANSWERS,
    encode=inference.make_encodings,
    propose=inference.make_propose,
    weight_table=model.weight_table,
    source_checkpoints=checkpoints.CHECKPOINTS,
    extra_names=(),
    hf_config=checkpoints.hf_config,
    interactive=True,
)
