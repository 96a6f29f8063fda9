import numpy as np
import pytest
from sample_inputs import make_regions

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import IGNORED, Prompt
from hyperseg_jax.systems.hyperseg.prompts import tokenize_prompt
from hyperseg_jax.systems.psalm.markers import Marker, PromptTokens, TokenCounts, expand_to_runs
from hyperseg_jax.text.layout import Source, choose_bucket, expand_runs, expanded_length, pack_layouts

COUNTS = TokenCounts(image=4, resampled=3, queries=2)


class ByteTokenizer:
    eos_id = 1
    id_of = staticmethod({"[SEG]": 3}.get)

    def encode(self, text):
        return [byte + 10 for byte in text.encode()]


def build_layout(prompt, length=400, *, train=False):
    return expand_runs(expand_to_runs(tokenize_prompt(prompt, ByteTokenizer(), template="short", train=train), COUNTS), length)


def test_markers_expand_in_order():
    ids = (5, Marker.IMAGE, 6, Marker.CLS, Marker.CLS, Marker.REGION, Marker.REGION, Marker.REFER, Marker.SEG, 1)
    labels = (*[IGNORED] * 7, Marker.REFER, Marker.SEG, 1)
    tokens = PromptTokens(ids, labels, (True,) * 10, expression=(8, 3), classes=((11, 12, 3), (13, 3)), num_regions=2)
    layout = expand_runs(expand_to_runs(tokens, COUNTS), 20)
    s = Source
    assert layout.source.tolist() == [
        s.TEXT,
        *[s.IMAGE] * 4,
        s.TEXT,
        *[s.CLASS] * 5,
        *[s.REGION] * 2,
        *[s.EXPRESSION] * 2,
        *[s.QUERY] * 2,
        s.TEXT,
        *[s.PADDING] * 2,
    ]
    assert layout.text_ids.tolist() == [5, 0, 0, 0, 0, 6, 11, 12, 3, 13, 3, 0, 0, 8, 3, 0, 0, 1, 0, 0]
    assert layout.segment.tolist() == [0] * 6 + [1, 1, 1, 2, 2, 1, 2, 1, 1] + [0] * 5
    assert layout.index[layout.source == s.IMAGE].tolist() == [0, 1, 2, 3]
    assert layout.index[layout.source == s.REGION].tolist() == [0, 1]
    assert layout.index[layout.source == s.QUERY].tolist() == [0, 1]
    assert layout.labels.tolist() == [IGNORED] * 17 + [1] + [IGNORED] * 2
    assert layout.mask.tolist() == [True] * 18 + [False] * 2
    assert layout.prompt.tolist() == [1] * 18 + [0] * 2 and layout.position.tolist() == list(range(20))
    assert all(part.shape == (20,) for part in vars(layout).values())


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt("referring", "the dog"),
        Prompt("video", "the dog"),
        Prompt("panoptic", classes=("cat", "dog")),
        Prompt("region", regions=make_regions(np.ones((2, 4, 4), bool))),
        Prompt("chat", "what?", answer="a dog"),
    ],
    ids=lambda prompt: prompt.task,
)
def test_layouts_of_every_task(prompt):
    layout = build_layout(prompt, train=True)
    count = {source: int((layout.source == source).sum()) for source in Source}
    assert count[Source.IMAGE] == 4
    assert count[Source.QUERY] == (0 if prompt.task == "chat" else 2)
    assert count[Source.RESAMPLED] == (0 if prompt.task == "chat" else 3)
    assert layout.segment[layout.source == Source.CLASS].max(initial=0) == (3 if prompt.task == "panoptic" else 0)
    assert count[Source.REGION] == (2 if prompt.task == "region" else 0)
    assert (layout.labels[layout.source != Source.TEXT] == IGNORED).all()
    labelled = layout.labels != IGNORED
    np.testing.assert_array_equal(layout.labels[labelled], layout.text_ids[labelled])
    assert layout.labels[labelled][-1] == 1


def test_too_long_prompts_report_both_lengths():
    tokens = tokenize_prompt(Prompt("chat", "what?"), ByteTokenizer(), template="short")
    needed = expanded_length(expand_to_runs(tokens, COUNTS))
    assert int(build_layout(Prompt("chat", "what?"), length=needed).mask.sum()) == needed
    with pytest.raises(UserError, match=rf"needs {needed} positions, the layout has {needed - 1}: .*raise the task's `length`"):
        build_layout(Prompt("chat", "what?"), length=needed - 1)


def test_the_smallest_sufficient_bucket_is_chosen():
    assert choose_bucket(100, (256, 128, 512)) == 128 and choose_bucket(128, (128,)) == 128
    assert choose_bucket(600, (256, 128, 512)) == 640 and choose_bucket(64, ()) == 64


def test_markers_must_match_their_contents():
    with pytest.raises(ValueError, match="markers of 1 classes and 0 regions, but the prompt has 0 and 0"):
        expand_to_runs(PromptTokens((Marker.CLS,), (IGNORED,), (True,)), COUNTS)


def unpack(packed, number):
    """Returns the layout of one prompt of a packed sequence, without padding."""
    selected = (packed.source != Source.PADDING) & np.isin(packed.prompt, (0, number))
    return {name: part[selected] for name, part in vars(packed).items() if name != "prompt"}


@pytest.mark.parametrize(
    "prompts",
    [
        [Prompt("referring", "the dog"), Prompt("referring", "the dog on the left"), Prompt("referring", "a cat")],
        [Prompt("panoptic", classes=("cat", "dog")), Prompt("referring", "the dog")],
        [Prompt("chat", "what?", answer="a dog"), Prompt("chat", "what?", answer="a cat")],
        [Prompt("chat", "what", answer="a dog"), Prompt("chat", "what?", answer="a cat")],
        [Prompt("video", "the dog")],
    ],
    ids=["referring", "mixed", "chat", "chat again", "one"],
)
def test_packed_prompts_share_their_prefix(prompts):
    layouts = [build_layout(prompt, train=True) for prompt in prompts]
    packed = pack_layouts(layouts, 900)
    for k, layout in enumerate(layouts, 1):
        unpacked = unpack(packed, k)
        for name, part in unpacked.items():
            np.testing.assert_array_equal(part, getattr(layout, name)[layout.source != Source.PADDING], err_msg=name)
        labelled = np.flatnonzero((packed.labels != IGNORED) & (packed.prompt == k))
        assert (packed.prompt[labelled - 1] == k).all() or len(layouts) == 1  # predicted from its own prompt
    assert (packed.prompt[packed.labels != IGNORED] > 0).all()
    if prompts[0].task == prompts[-1].task and len(prompts) > 1:
        assert int((packed.source == Source.IMAGE).sum()) == COUNTS.image


def test_too_long_packed_prompts_report_both_lengths():
    layouts = [build_layout(Prompt("referring", "the dog"))] * 2
    with pytest.raises(UserError, match=r"2 prompts of one image need \d+ positions, the layout has 60"):
        pack_layouts(layouts, 60)
