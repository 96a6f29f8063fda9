"""IFSeg (arXiv 2304.14369): semantic segmentation that is trained without images, on OFA.

model        the model: its modules, parameters and published names
texts        the vocabulary of OFA, and class lists as token ids
word_images  images made of words
processor    converts an Example to the arrays of one batch element
inputs       the arrays of a batch as the inputs of the model
scores       how well cells match classes
objective    the training loss
inference    encodes images, and predicts and smooths the classes of their cells
postprocess  converts the outputs of a prompt to answers
adaptation   the config that trains a model for some class names
checkpoints  the public checkpoints that weights are imported from
"""

from hyperseg_jax.systems.ifseg import adaptation, checkpoints, inference, model, objective, postprocess, processor, texts
from hyperseg_jax.systems.system import System

SYSTEM = System(
    name="ifseg",
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
    published_fields=checkpoints.PUBLISHED_FIELDS,
    prediction_fields=("smoothing", "scores"),
    untrained=lambda config: checkpoints.UNTRAINED,
    hf_config=checkpoints.hf_config,
    adapt=adaptation.adapt_config,
)
