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
        "a?" * 4,
        "a?" * 23,
        "(a?|b?|c{2}|d+?)",
        "(?i)a",
        "(?i:a)b",
        "(?s).",
        "(?-i:a)",
        "[\x01-\uffff]",
        r"[^\x01-\uffff]",
        r"\xe9",
        "\u00e9",
        "[^\u00e9]",
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
    assert patterns or "optimizer" not in config.load(name)
    assert sum(map(regexes.count_ways, patterns)) <= regexes.WAYS


def test_many_patterns_count_together():
    groups = [{"pattern": ".*.*.*[!?]", "rate": 1.0, "decay": 0.0}] * 9
    blocks = {"optimizer": {"param_groups": groups}}
    assert next(config_fields.problems(blocks, blocks)).startswith("optimizer.param_groups and init_*: they can match in")
    blocks = {"optimizer": {"param_groups": groups[:1]}}
    assert not list(config_fields.problems(blocks, blocks))


def worst_patterns():
    """Returns the patterns of a config that took longest to compile, at the limits."""
    letters = regexes.LETTERS
    wide = [f"(?i){k:04d}" + "[\x01-\uffff]" * 197 for k in range(3)]
    slow = ["[a-z]" * (letters // 5), "(|)" * (letters // 3), "a|" * (letters // 2 - 1), "(a|b)" * (letters // 5)]
    return [*wide, *slow, *("()" * (letters // 2),) * (regexes.ALL_LETTERS // letters)]


def test_patterns_compile_in_little_time():
    """Sets with wide ranges took a second for each pattern, and a thousand are allowed."""
    began = time.process_time()
    for pattern in worst_patterns():
        if regexes.count_ways(pattern) <= regexes.WAYS:
            re.compile(pattern)
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize("name", ["param_groups", "init_optional"])
@pytest.mark.parametrize(("pattern", "count"), [("a", 1001), ("(a|b)" * 200, 11), ("[[" * 400, 9000)])
def test_many_patterns_are_not_parsed(name, pattern, count):
    groups = [{"pattern": pattern, "rate": 1.0, "decay": 0.0}] * count
    blocks = {"optimizer": {"param_groups": groups}} if name == "param_groups" else {"init_optional": [pattern] * count}
    began = time.process_time()
    assert list(config_fields.problems(blocks, blocks)) == [
        "optimizer.param_groups and init_*: give at most 1000 regular expressions with 10000 letters in total"
    ]
    assert time.process_time() - began < 1
