"""Regular expressions of configs: those that could take hours are refused."""

import re
import time

import pytest

from hyperseg_jax import config, config_fields
from hyperseg_jax.untrusted import regexes

PATH = "mask_decoder/transformer_layers_3/self_attention/query_projection/kernel"


@pytest.mark.parametrize(
    "pattern",
    [
        "(([a-z0-9_/])+)+!",
        "(a|a)*b",
        "(a*)?" * 9,
        "(a|a)" * 99,
        ".*" * 4,
        "(?:(?:a{0}){99}){99}",
        "(?:){999999999}",
        r"(a)\1",
        "(?=a).*",
        "a" * 1001,
        "(",
        "[[a]",
    ],
)
def test_patterns_that_could_take_hours(pattern):
    assert regexes.count_ways(pattern) > regexes.WAYS


@pytest.mark.parametrize(
    "pattern", [r".*/blocks_\d+/.*", r"(llm|language_head)/.*", "(?:ab)*", "(clip_)?.{3}[^x]$", ".*.*.*[!?]"]
)
def test_simple_patterns(pattern):
    assert regexes.count_ways(pattern) <= regexes.WAYS
    began = time.process_time()
    re.fullmatch(pattern, PATH)
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize("name", config.shipped_names())
def test_patterns_of_the_shipped_configs(name):
    patterns = config_fields._patterns(config.load(name).to_dict())
    assert patterns and sum(map(regexes.count_ways, patterns)) <= regexes.WAYS


def test_many_patterns_count_together():
    groups = [{"pattern": ".*.*.*[!?]", "rate": 1.0, "decay": 0.0}] * 9
    blocks = {"optimizer": {"param_groups": groups}}
    assert next(config_fields.problems(blocks, blocks)).startswith(
        "optimizer.param_groups and init_optional: they can match in"
    )
    blocks = {"optimizer": {"param_groups": groups[:1]}}
    assert not list(config_fields.problems(blocks, blocks))
