"""Our tables against every tensor of the full-size checkpoint: names and shapes, by part."""

import json
import re

import jax
import numpy as np
import pytest
from golden_case import find_files
from import_weights import abstract_params

from hyperseg_jax import config as configs
from hyperseg_jax.connectors import fine_grained_perceiver, projector
from hyperseg_jax.encoders import siglip, swin
from hyperseg_jax.llms import phi
from hyperseg_jax.llms.head import LanguageHead, head_table
from hyperseg_jax.structs import Pyramid, TokenStream
from hyperseg_jax.systems.ifseg.checkpoints import OFA
from hyperseg_jax.systems.ifseg.model import WORD_TABLES
from hyperseg_jax.tables import find_first_rule, flatten, unflatten
from hyperseg_jax.training.param_groups import assign_groups, groups_from_config
from hyperseg_jax.weights.exporting import conversion_lines

MANIFESTS = {
    "hyperseg": find_files("hyperseg", "full_manifest.json"),
    "instructseg": find_files("instructseg", "full_manifest.json"),
}
CONFIGS = {"hyperseg_3b_released": "hyperseg", "hyperseg_3b": "hyperseg", "instructseg_3b": "instructseg"}


def zeros(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def published_parts():
    """Returns (prefix of the table, prefixes of all its names, module, table, example inputs) of each published part."""
    tower, mask_tower, llm = siglip.Siglip(keep_unused=True), swin.Swin(), phi.Phi()
    perceiver, connector = fine_grained_perceiver.FineGrainedPerceiver(2560), projector.Projector(2560)
    head = LanguageHead()
    pyramid = Pyramid(tuple(zeros(1, 32 // 2**i, 32 // 2**i, 256 * 2**i) for i in range(3)), (8, 16, 32))
    stream = TokenStream(zeros(1, 8, 2560), zeros(1, 8, dtype=np.int32), zeros(1, 8, dtype=bool), zeros(1, 8, dtype=np.int32))
    top = ("mgvp_layers.", "temporal_query", "expanded_seg_query_project.", "local_project.", "level_embed.")
    return {
        "siglip": ("model.vision_tower.", ("model.vision_tower.",), tower, siglip.table(tower), (zeros(1, 384, 384, 3),)),
        "swin": (
            "model.vision_tower_mask.",
            ("model.vision_tower_mask.",),
            mask_tower,
            swin.table(mask_tower),
            (zeros(1, 128, 128, 3),),
        ),
        "projector": (
            "model.mm_projector.",
            ("model.mm_projector.",),
            connector,
            projector.table(connector),
            (zeros(1, 4, 1152),),
        ),
        "perceiver": ("", top, perceiver, fine_grained_perceiver.table(perceiver), (pyramid,)),
        "phi": ("model.", ("model.embed_tokens.", "model.layers.", "model.final_layernorm."), llm, phi.table(llm), (stream,)),
        "head": ("", ("lm_head.",), head, head_table(), (zeros(1, 8, 2560),)),
    }


@pytest.mark.parametrize(
    "config, manifest",
    [(config, path) for config, system in CONFIGS.items() for path in MANIFESTS[system]],
    ids=lambda value: value if isinstance(value, str) else value.parent.parent.name,
)
def test_an_export_has_every_published_name(manifest, config):
    """Export writes the published names, plus only names marked as ours. Integer tensors are computed."""
    content = json.loads(manifest.read_text())
    rows = content["keys"] if "keys" in content else content["tensors"]
    lines = [line.split("\t") for line in conversion_lines(configs.load(config))]
    exported = {name: json.loads(shape) for name, shape, _, operator in lines if not operator.endswith("(ours only)")}
    assert exported == {row["name"]: list(row["shape"]) for row in rows}
    assert (len(lines) > len(rows)) == (config == "hyperseg_3b")


@pytest.mark.parametrize("manifest", MANIFESTS["hyperseg"], ids=lambda path: path.parent.parent.name)
@pytest.mark.parametrize("part", sorted(published_parts()))
def test_full_size_names_and_shapes(manifest, part):
    prefix, owned, module, table, inputs = published_parts()[part]
    rows = json.loads(manifest.read_text())["keys"]
    expected = {row["name"]: tuple(row["shape"]) for row in rows if row["name"].startswith(owned)}
    # broadcast zeros of the parameters' shapes, without allocation
    leaves = flatten(abstract_params(module, *inputs))
    params = unflatten({path: np.broadcast_to(np.zeros((), np.int8), leaf.shape) for path, leaf in leaves.items()})
    exported = table.with_prefix(name=prefix).to_torch(params)
    assert {name: tensor.shape for name, tensor in exported.items()} == expected


SEEM = re.compile(r"full_manifest_(\w+)_(v0|v1|demo)\.json")
SEEM_MANIFESTS = [
    *find_files("seem", "full_manifest_davitd3_v1.json"),
    *find_files("seem", "full_manifest_davitd5_v1.json"),
    *find_files("seem", "full_manifest_focall_demo.json"),
    *find_files("seem", "full_manifest_focall_v0.json"),
    *find_files("seem", "full_manifest_focall_v1.json"),
    *find_files("seem", "full_manifest_focalt_demo.json"),
    *find_files("seem", "full_manifest_focalt_v0.json"),
    *find_files("seem", "full_manifest_focalt_v1.json"),
    *find_files("seem", "full_manifest_samvitb_v1.json"),
    *find_files("seem", "full_manifest_samvitl_v1.json"),
]


@pytest.mark.parametrize("manifest", SEEM_MANIFESTS, ids=lambda path: path.stem)
def test_an_export_of_seem_has_every_published_name(manifest):
    kind, variant = SEEM.fullmatch(manifest.name).groups()
    rows = json.loads(manifest.read_text())["tensors"]
    config = configs.load(f"seem_{kind}", [f"model.mask_decoder.variant={variant}"])
    lines = [line.split("\t") for line in conversion_lines(config)]
    assert {name: json.loads(shape) for name, shape, *_ in lines} == {row["name"]: list(row["shape"]) for row in rows}


SCA_VITB = {"hidden_size": 768, "num_layers": 12, "heads": 12, "global_layers": [2, 5, 8, 11]}
SCA_MANIFESTS = [
    *(("sca_gpt2_large", SCA_VITB, path) for path in find_files("sca", "full_manifest_vit_base-gpt2_large.json")),
    *(("sca_gpt2_large", {}, path) for path in find_files("sca", "full_manifest_vit_huge-gpt2_large.json")),
    *(("sca_llama_3b", {}, path) for path in find_files("sca", "full_manifest_vit_huge-open_llama_3b.json")),
]


@pytest.mark.parametrize("config, encoder, manifest", SCA_MANIFESTS, ids=lambda value: getattr(value, "stem", None))
def test_an_export_of_sca_has_every_published_name(config, encoder, manifest):
    """The trained part is that of the recipe as well."""
    rows = json.loads(manifest.read_text())["tensors"]
    loaded = configs.load(config)
    with loaded.unlocked():
        loaded.model.image_encoder.update(encoder)
    lines = [line.split("\t") for line in conversion_lines(loaded)]
    assert {name: json.loads(shape) for name, shape, *_ in lines} == {row["name"]: list(row["shape"]) for row in rows}
    groups = groups_from_config(loaded.optimizer.param_groups)
    path_of = {name: re.split(r"[\[ ]", path)[0] for name, _, path, *_ in lines}
    index = assign_groups(path_of.values(), groups)
    trained = {name for name, path in path_of.items() if groups[index[path]].rate}
    assert trained == {row["name"] for row in rows if row["trained"]}


@pytest.mark.parametrize("manifest", find_files("ifseg", "full_manifest.json"), ids=lambda path: path.parent.parent.name)
def test_an_export_of_ifseg_has_every_published_name(manifest):
    """The trained part is that of the recipe as well, without the parts that no gradient reaches. OFA lacks what its import
    initializes."""
    rows = json.loads(manifest.read_text())["tensors"]
    count = next(row["shape"][0] for row in rows if row["name"] == "decoder.seg_projection.weight")
    loaded = configs.load("ifseg_base", [f"model.num_classes={count}"])
    lines = [line.split("\t") for line in conversion_lines(loaded)]
    assert {name: json.loads(shape) for name, shape, *_ in lines} == {row["name"]: list(row["shape"]) for row in rows}
    groups = groups_from_config(loaded.optimizer.param_groups)
    learned = {row["name"]: row.get("gets_gradient", row["trained"]) for row in rows if row["kind"] == "parameter"}
    path_of = {name: re.split(r"[\[ ]", path)[0] for name, _, path, *_ in lines if name in learned}
    index = assign_groups(path_of.values(), groups)
    assert learned == {name: groups[index[path]].rate > 0 for name, path in path_of.items()}
    new = {row["name"] for row in rows if row["new_vs_ofa"] and row["name"] in learned}
    assert new - {*WORD_TABLES} == {name for name in learned if find_first_rule(OFA.initialized, name)}
