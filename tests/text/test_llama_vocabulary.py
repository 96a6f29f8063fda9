"""LLaMA's tokenizer: the ids of recorded strings.

No package ships LLaMA's vocabulary, so this one has only the pieces of these strings, with the ids that LLaMA gives them, and
the steps to merge them; the other ids are fillers. Strings and ids are those of transformers' tests of LLaMA.
"""

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from hyperseg_jax.text.tokenizer import Tokenizer

SIZE = 32000
PIECES = {
    **{"▁The": 450, "▁following": 1494, "▁string": 1347, "▁should": 881, "▁be": 367, "▁properly": 6284, "▁encoded": 18511},
    **{":": 29901, "▁Hello": 15043, ".": 29889, "▁But": 1205, "▁": 29871, "ird": 1823, "▁and": 322, "ป": 31010, "ี": 30691},
    **{"▁▁▁": 1678, "ด": 30718, "▁A": 319, "▁sample": 4559, "▁test": 1243},
}
RECORDED = {
    "The following string should be properly encoded: Hello.": [450, 1494, 1347, 881, 367, 6284, 18511, 29901, 15043, 29889],
    "But ird and ปี   ird   ด": [1205, 29871, 1823, 322, 29871, 31010, 30691, 1678, 1823, 1678, 30718],
    "A sample test": [319, 4559, 1243],
}


@pytest.fixture(scope="module", params=["normalizer", "metaspace"])
def llama(request, tmp_path_factory):
    """Returns the tokenizer of a file with the components of LLaMA's, in both forms that convert spaces to ▁; letters without a
    piece become their bytes."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}, **PIECES}
    fillers = iter(sorted(set(range(SIZE)) - set(vocab.values())))
    merges = [(piece[:end], piece[end]) for piece in PIECES for end in range(1, len(piece))]
    for part in dict.fromkeys(part for first, second in merges for part in (first, second, first + second)):
        if part not in vocab:
            vocab[part] = next(fillers)
    vocab |= {f"<filler {number}>": number for number in fillers}
    backend = Backend(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if request.param == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(spaces)
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s>:1 $B:1", [("<s>", 1)])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    folder = tmp_path_factory.mktemp("llama")
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder, eos="</s>")


@pytest.mark.parametrize("text", RECORDED)
def test_recorded_strings(llama, text):
    assert llama.encode(text) == RECORDED[text]
    assert llama.decode(RECORDED[text]) == text
    assert llama.decode([1, *RECORDED[text], 2]) == text  # special tokens are left out


def test_unknown_letters_are_bytes(llama):
    ids = llama.encode("A\n谛 test")
    assert ids == [319, 3 + 0x0A, *(3 + byte for byte in "谛".encode()), 1243]
    assert llama.decode(ids) == "A\n谛 test"
    assert (llama.eos_id, llama.vocab_size) == (2, SIZE)
