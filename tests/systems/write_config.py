"""Config files of stub systems."""

from hyperseg_jax import config as configs


def write_config(folder, system, model, root, tasks, **train):
    """Writes a config file for a stub system, as a user would, and loads it."""
    tiny = configs.load("tiny").unlock()
    fields = {name: tiny[name].to_dict() for name in ("hosts", "train", "optimizer")}
    fields["train"] |= {"batch_size": 4, "log_every": 4, "eval_examples": 4, **train}
    fields["optimizer"] |= {"param_groups": ({"pattern": ".*"},), "learning_rate": 1e-2, "warmup_steps": 2}
    data = {
        name: tiny.data[name]
        for name in (
            "workers",
            "horizontal_flip",
            "augment",
            "length_buckets",
            "batches",
            "max_unreadable_share",
            "toy",
        )
    }
    data = {name: value.to_dict() if hasattr(value, "to_dict") else value for name, value in data.items()}
    data |= {"root": str(root), "curriculum": {"task": "", "share": 0.0}, "tasks": tasks}
    fields |= {"system": system, "seed": 0, "init_from": "", "init_optional": (), "model": model, "loss": {}, "data": data}
    file = folder / f"{system}.py"
    file.write_text(f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({fields!r})\n")
    return configs.load(str(file))
