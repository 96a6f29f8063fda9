"""Prompt strings and labels against the published system."""

import numpy as np
import pytest

from hyperseg_jax.structs import Prompt
from hyperseg_jax.systems.hyperseg.prompts import tokenize_prompt
from hyperseg_jax.text.expressions import clean_video_expression


class ByteTokenizer:
    """The case's toy tokenizer: one id per UTF-8 byte."""

    eos_id = 1
    id_of = staticmethod({"[SEG]": 3}.get)

    def encode(self, text):
        return [byte + 10 for byte in text.encode()]


@pytest.mark.golden("hyperseg", r"prompt_tokens.*")
def test_prompt_tokens(case):
    expression = bytes(case.inputs["expression_bytes"]).decode()
    prompts = {
        "referring": Prompt("referring", expression),
        "reason": Prompt("reasoning", expression),
        "revos": Prompt("video", clean_video_expression(expression)),
        "vqa": Prompt("chat", "What is it?"),
    }
    for kind, prompt in prompts.items():
        tokens = tokenize_prompt(prompt, ByteTokenizer())
        ours = {"input_ids": tokens.ids, "labels": tokens.labels, "token_refer_id": tokens.expression}
        for what, ids in ours.items():
            if f"{kind}_{what}" in case.outputs:
                case.compare(f"{kind}_{what}", np.array(ids, np.int32))
    case.check()
