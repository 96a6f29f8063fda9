"""Parameter names of transformers' classes, mapped to those of our parts."""

import re

from hyperseg_jax.systems import system as systems

# (regex, replacement) by part, applied in order: names of other transformers releases to ours
SPELLINGS = {
    "phi": (),
    "gpt2": (),
    "llama": (),
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


def normalize_name(part, name):
    """Returns our table's name for a name written by any release of transformers."""
    for pattern, replacement in SPELLINGS[part]:
        name = re.sub(pattern, replacement, name)
    return name


def unused_names(part, config):
    """Returns regexes of names in the class's files that do not affect our outputs."""
    if part == "swin":
        return (r"swin\.layernorm\..*",)  # a norm that SwinBackbone never applies
    if part in ("phi", "gpt2", "llama"):
        return ()
    tower = systems.get(config.system).build(config).clip_encoder
    text = (r"text_model\..*", r"logit_(scale|bias)")  # the other weights of a full SiglipModel
    cut = [rf"encoder\.layers\.{i}" for i in range(tower.num_used, tower.num_layers)] + ["head"]
    return text if tower.keep_unused else (*text, *(rf"vision_model\.{name}\..*" for name in cut))
