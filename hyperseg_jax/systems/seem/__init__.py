"""SEEM (arXiv 2304.06718).

model        the model: its modules, parameters and published names
texts        texts as token ids
marks        visual prompts as marked pixels
derived_prompts  the prompts of training beside a class list: sentences or class names, and objects to mark
processor    converts an Example to the arrays of one batch element
inputs       the arrays of a batch as the inputs of the model
scores       how well queries match classes, phrases and visual prompts
rounds       interactive rounds, and those of a simulated user
criterion    the mask losses of objects, phrases and visual prompts
objective    the training loss
inference    encodes images and class lists, and predicts masks for a batch
postprocess  converts the outputs of a prompt to answers
checkpoints  the public checkpoints that weights are imported from
"""

from hyperseg_jax.systems.seem import checkpoints, inference, model, objective, postprocess, processor, texts
from hyperseg_jax.systems.system import System

SYSTEM = System(
    name="seem",
    build=model.build_model,
    init=model.init_params,
    tokenizer=texts.load_tokenizer,
    processor=processor.make_processor,
    counts=objective.make_counts,
    loss=objective.make_loss,
    predict=inference.make_predict,
    answers=postprocess.ANSWERS,
    encode=inference.make_encodings,
    weight_table=model.weight_table,
    source_checkpoints=checkpoints.CHECKPOINTS,
    extra_names=(),
    published_fields=(checkpoints.VARIANTS,),
    hf_config=checkpoints.hf_config,
    interactive=True,
    composes=True,
    relates_phrases=True,
)
