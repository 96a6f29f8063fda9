"""Names in files of transformers' classes beside those of systems/hyperseg/parts.py: for reading such files in tests."""

import re

from hyperseg_jax.systems import system as systems

# of each part (regex, replacement), applied in order: other releases' names to the table's
SPELLINGS = {
    "phi": (),
    "siglip": ((r"^(?=(embeddings|encoder|post_layernorm|head)\.)", "vision_model."),),
    "swin": (
        (r"^swin\.(?=embeddings\.|encoder\.)", ""),
        (r"\.attention\.q_proj\.", ".attention.self.query."),
        (r"\.attention\.k_proj\.", ".attention.self.key."),
        (r"\.attention\.v_proj\.", ".attention.self.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.attention\.relative_position_bias\.", ".attention.self."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
}


def spelled(part, name):
    """The table's spelling of a name, whichever release of transformers wrote it."""
    for pattern, replacement in SPELLINGS[part]:
        name = re.sub(pattern, replacement, name)
    return name


def unused(part, config):
    """Regexes of names that files of the class may hold and that change no output of ours."""
    if part == "swin":
        return (r"swin\.layernorm\..*",)  # a norm that SwinBackbone carries and never runs
    if part == "phi":
        return ()
    tower = systems.get(config.system).build(config).clip_encoder
    text = (r"text_model\..*", r"logit_(scale|bias)")  # what a whole SiglipModel holds besides
    cut = [rf"encoder\.layers\.{i}" for i in range(tower.num_used, tower.num_layers)] + ["head"]
    return text if tower.keep_unused else (*text, *(rf"vision_model\.{name}\..*" for name in cut))
