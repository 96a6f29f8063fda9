"""HyperSeg (arXiv 2411.17606).

model        the wiring of its parts, its parameters and their published names
prompts      the exact words of each task
markers      what stands in prompts where no text is, and becomes a part of the token stream
processor    an example -> the arrays of an element
frames       the frames of a batch, one after the other
objective    what it is trained for
lengths      batches cut to shorter sequences
encoding     what can be encoded apart from a prompt, and kept
inference    its outputs for a batch, and the text that it writes
postprocess  outputs about a prompt -> answers
checkpoints  the public checkpoints that its weights come from
parts        parts that transformers has a class for, and adapters for PEFT
toy_tokenizer  writes the tokenizer of the toy world
"""

from hyperseg_jax.systems.hyperseg import (
    checkpoints,
    encoding,
    inference,
    lengths,
    model,
    objective,
    parts,
    postprocess,
    processor,
)
from hyperseg_jax.systems.system import System

SYSTEM = System(
    name="hyperseg",
    build=model.build,
    init=model.init,
    tokenizer=processor.tokenizer,
    processor=processor.make,
    counts=objective.counts,
    loss=objective.loss,
    shorten=lengths.shorten,
    needed=lengths.needed,
    predict=inference.predict,
    answers=postprocess.ANSWERS,
    encode=encoding.encode,
    write=inference.write,
    weight_table=model.weight_table,
    published=checkpoints.CHECKPOINTS,
    extras=(checkpoints.GATES,),
    hf_config=checkpoints.hf_config,
    parts=parts.PARTS,
    no_parts=parts.WITHOUT,
    adapters=parts.adapters,
)
