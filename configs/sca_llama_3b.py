"""SCA with SAM's ViT-H and OpenLLaMA-3B v2 at its published size; see sca_gpt2_large."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sca_gpt2_large.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    c.model.llm = {
        "kind": "llama",
        "vocab_size": 32000,
        "hidden_size": 3200,
        "mlp_size": 8640,
        "num_layers": 26,
        "num_heads": 32,
        "epsilon": 1e-6,
        "remat": "full",
    }
    c.data.tokenizer = "{root}/open_llama"  # a folder with tokenizer.json, see docs/systems.md
    return c
