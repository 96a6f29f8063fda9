"""Tokenizers out of model folders: those of known models load as they are; what would panic, grow or hang is one line."""

import json
import os
import time

import fuzz
import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from hyperseg_jax import atomic
from hyperseg_jax.errors import UserError
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.untrusted import limits

TOY = json.loads(TOY_FILE.read_text())
END = "<|endoftext|>"
CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def numbered(tokens):
    return {token: k for k, token in enumerate(dict.fromkeys(tokens))}


def byte_level():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(numbered([*alphabet, "th", "the"]), [("t", "h"), ("th", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder, backend.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens([END])
    return backend


def llama():
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{k:02X}>" for k in range(256)), "▁", "t", "h", "e", "th", "the", "▁the"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    backend = Backend(models.BPE(numbered(pieces), merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>", END])
    return backend


def clip():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = numbered([*alphabet, *(f"{letter}</w>" for letter in alphabet), "th", "the</w>", "<|startoftext|>", END])
    merges = [("t", "h"), ("th", "e</w>")]
    backend = Backend(models.BPE(vocab, merges, unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CLIP), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    end = (END, vocab[END])
    backend.post_processor = processors.RobertaProcessing(end, ("<|startoftext|>", vocab["<|startoftext|>"]))
    backend.add_special_tokens(["<|startoftext|>", END])
    return backend


def bart():
    backend = byte_level()
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False), "<s>", "</s>"])
    ends = [("</s>", backend.token_to_id("</s>")), ("<s>", backend.token_to_id("<s>"))]
    backend.post_processor = processors.RobertaProcessing(*ends)
    backend.add_tokens(["<bin_0>", "<code_0>"])  # of OFA
    return backend


def bert():
    vocab = numbered(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "ring", "##s", "r", "##i"])
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder, backend.post_processor = decoders.WordPiece(), processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens([END])
    return backend


def t5():
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("r", -4.0), ("ing", -5.0)]
    backend = Backend(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens([END])
    return backend


KNOWN = {made.__name__: made for made in (byte_level, llama, clip, bart, bert, t5)}
TEXTS = ("the ring", "  The\tRINGS of Zürich ☃\n\n'll 12345", "", "the" * 50, "a<|endoftext|>b [SEG]")


@pytest.mark.parametrize("name", KNOWN)
def test_tokenizers_of_known_models_load_as_they_are(tmp_path, name):
    theirs = KNOWN[name]()
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.load(tmp_path, added=("[SEG]",))
    theirs.add_special_tokens([AddedToken("[SEG]", normalized=False)])
    assert json.loads(ours._backend.to_str()) == json.loads(theirs.to_str())
    for text in TEXTS:
        found = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == found and ours.decode(found) == theirs.decode(found)
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").encode(TEXTS[1]) == ours.encode(TEXTS[1])


def changed(**fields):
    return {**TOY, **fields}


def model(**fields):
    return changed(model={**TOY["model"], **fields})


def added(**fields):
    return changed(added_tokens=[*TOY["added_tokens"], {"id": SIZE, "content": "<new>", **fields}])


def replacing(pattern, content):
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def several(role, members, *parts):
    return changed(**{role: {"type": "Sequence", members: list(parts)}})


def nested(part):
    sequence = lambda inner: {"type": "Sequence", "normalizers": [inner]}
    return sequence(sequence(part))


SIZE = Tokenizer.toy().vocab_size
SHIFTED = {token: number + 7 for token, number in TOY["model"]["vocab"].items()}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "continuing_subword_prefix": "##"}
HOSTILE = [
    (changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "normalizer is Precompiled"),
    (changed(normalizer=replacing("a", "a" * 100)), "replaces 'a' by the longer"),
    (changed(normalizer=replacing("", "a")), "has a pattern that is not allowed"),
    (changed(normalizer=replacing("a", "\ufdfa")), "replaces"),  # 18 letters, once it is normalized
    (changed(decoder=replacing("a", "bb")), "replaces"),
    (several("normalizer", "normalizers", *[{"type": "StripAccents"}] * 40), "more than 32 parts"),
    (several("pre_tokenizer", "pretokenizers", *[{"type": "ByteLevel"}] * 3), "has ByteLevel twice"),
    (several("normalizer", "normalizers", *[{"type": "Prepend", "prepend": "x"}] * 2), "has Prepend twice"),
    (changed(normalizer={"type": "Prepend", "prepend": "x" * 1000}), "has a prepend that is not allowed"),
    (changed(pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a+)+$"}}), "pattern that is not allowed"),
    (changed(pre_tokenizer={"type": "Lua", "code": "x"}), "pre_tokenizer is Lua"),
    (changed(decoder={"type": "Strip", "content": " ", "start": 2**60, "stop": 0}), "start that is not allowed"),
    (changed(post_processor={"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}), "has a single"),
    (changed(script="x"), "has an unknown field script"),
    (model(dropout=0.5), "dropout that is not allowed"),
    (model(type="Neural"), "model is Neural"),
    (model(end_of_word_suffix="x" * 2**20), "end_of_word_suffix that is not allowed"),
    (model(vocab=SHIFTED), "of another token|each once"),
    (model(vocab={**TOY["model"]["vocab"], "<beyond>": SIZE + 5}), "each once"),
    (model(vocab={**TOY["model"]["vocab"], "<twice>": 5}), "each once|of another token"),
    (model(vocab={"a": 2**70}), "gives a the id"),
    (model(vocab={"a": -1}), "gives a the id"),
    (model(vocab=[["a", 1.0]]), "is not a table"),
    (model(merges=[["a", "not there"]]), "merge of a and not there does not match"),
    (model(merges=["a b c"]), "merges that is not allowed"),
    ({"model": BPE}, "merge of a and b does not match"),
    ({"model": {**BPE, "continuing_subword_prefix": "", "vocab": {"a": 0, "b": 1}}}, "merge of a and b does not match"),
    (changed(model={"type": "WordPiece", "unk_token": "[UNK]", "vocab": {}}), "unk_token that is not in its vocabulary"),
    (changed(model={"type": "WordPiece", "unk_token": "a", "vocab": {"a": 0}, "max_input_chars_per_word": 10**9}), "max_input"),
    (changed(model={"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]]}), "unk_id"),
    (changed(model=None), "has no model"),
    (added(id=SIZE + 4), "each once"),
    (added(id=3), "of another token"),
    (added(content="[SEG]"), "of another token"),
    (added(content=""), "without a valid content or id"),
    (added(content=" ", lstrip=True, rstrip=True), "strips surrounding spaces"),
    (
        {**added(content="x", lstrip=True, normalized=True), "normalizer": nested(replacing("x", " "))},
        "strips surrounding spaces",
    ),
    (changed(version="9"), "is not a tokenizer"),
    ([], "is not a JSON object"),
]


def test_a_normalizer_that_replaces_nothing_is_not_taken_for_one(tmp_path):
    token = {**TOY["added_tokens"][0], "id": SIZE, "content": "<x>", "lstrip": True, "normalized": True}
    prepends = nested({"type": "Prepend", "prepend": "String"})
    content = changed(added_tokens=[*TOY["added_tokens"], token], normalizer=prepends)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert Tokenizer.load(tmp_path).vocab_size == SIZE + 1


@pytest.mark.parametrize(("content", "told"), HOSTILE)
def test_what_would_panic_grow_or_hang_is_one_line(tmp_path, content, told):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=told) as raised:
        Tokenizer.load(tmp_path)
    assert str(raised.value).startswith(f"{file}: ")
    fuzz.one_line(str(raised.value))


@pytest.mark.parametrize(
    ("merges", "told"),
    [("a b\nb c", "merge of b and c does not match"), ("a b c", "the line a b c is not a merge"), ("\0", "is not a merge")],
)
def test_merges_that_would_panic_are_one_line(tmp_path, merges, told):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "c": 2, "ab": 3, "<|endoftext|>": 4}))
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    with pytest.raises(UserError, match=told) as raised:
        Tokenizer.load(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'merges.txt'}: ")


def test_texts_come_whole_whatever_a_file_says_of_padding(tmp_path):
    padding = {"strategy": {"Fixed": 2_000_000_000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 99}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(changed(padding={**padding, "pad_type_id": 0, "pad_token": "x"}, truncation=cut)))
    text = "the small cyan cross above the ring"
    with fuzz.bounded(seconds=5):
        assert Tokenizer.load(tmp_path).encode(text) == Tokenizer.toy().encode(text)


def test_a_long_text_is_told_with_the_limit():
    with pytest.raises(UserError, match=r"has 50000 letters, and the limit is 32768; .*limits\.letters"):
        Tokenizer.toy().encode("a" * 50_000)
    with limits.applied(letters=60_000):
        assert len(Tokenizer.toy().encode("☃" * 50_000)) == 150_000


@pytest.mark.parametrize("name", KNOWN)
def test_the_longest_texts_take_moments(tmp_path, name):
    KNOWN[name]().save(str(tmp_path / "tokenizer.json"))
    tokenizer, most = Tokenizer.load(tmp_path), limits.Limits().letters
    for piece in (" ", "a", "the", "☃", "\ufdfa", " <mask>", "'s\n"):
        with fuzz.bounded(seconds=5):
            began = time.perf_counter()
            tokenizer.encode((piece * most)[:most])
            assert time.perf_counter() - began < 5


def test_lone_surrogates_are_no_text():
    with pytest.raises(UserError, match="cannot be tokenized"):
        Tokenizer.toy().encode("a \ud800 ring")


def test_pipes_and_devices_are_not_read(tmp_path):
    file = tmp_path / "tokenizer.json"
    for make in (lambda: file.symlink_to("/dev/zero"), lambda: os.mkfifo(file)):
        make()
        with fuzz.bounded(seconds=10), pytest.raises(UserError, match="no such file"):
            Tokenizer.load(tmp_path)
        file.unlink()


def promise(folder):
    """Of a damaged tokenizer.json: one line, or a tokenizer that is bounded and keeps its ids below its size."""

    def holds(data):
        (folder / "tokenizer.json").write_bytes(data)
        made = fuzz.kept_promise(lambda: Tokenizer.load(folder), says=str(folder))
        if isinstance(made, Tokenizer):
            for text in ("the red ring <mask> ☃[SEG]", " a" * 2000):
                ids = fuzz.kept_promise(lambda text=text: made.encode(text))
                assert isinstance(ids, UserError) or (len(ids) < 100_000 and max(ids, default=0) < made.vocab_size)
                if not isinstance(ids, UserError):
                    fuzz.kept_promise(lambda ids=ids: made.decode(ids))

    return holds


@pytest.mark.parametrize("name", KNOWN)
def test_damaged_tokenizers(tmp_path, name):
    fuzz.tried(promise(tmp_path), fuzz.damaged_json(json.loads(KNOWN[name]().to_str())), examples=12)


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_damaged_tokenizers_for_long(tmp_path, name, tried_long):
    tried_long(promise(tmp_path), fuzz.damaged_json(json.loads(KNOWN[name]().to_str())))


def test_the_copy_for_transformers_is_one_that_the_next_process_removes_after_a_kill(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    folder, seen = tmp_path / "tokenizer", []
    Tokenizer.toy().save(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    whole = AutoTokenizer.from_pretrained

    def watched(copy, **options):
        seen.append(copy)
        return whole(copy, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", watched)
    Tokenizer.load(folder)
    assert atomic.is_temporary(seen[0].parents[1]) and not seen[0].exists()
