"""IFSeg's texts and class rows against the published system."""

import ml_collections
import numpy as np
import ofa_dictionary
import pytest

from hyperseg_jax.systems.ifseg import model, texts


def mean_words(table, ids):
    """Returns the rows of these words by the model, without its other parts."""
    width = {"hidden_size": table.shape[1]}
    sizes = {"vocab_size": len(table), "num_classes": 1, "decoder_input": model.DECODER_INPUTS[0], "precision": {}}
    parts = {"image_encoder": {"blocks": (1,)}, "encoder": {**width, "base": (2, 2)}, "decoder": width}
    built = model.build_model(ml_collections.ConfigDict({"model": {**sizes, **parts}}))
    params = {"tokens": {"embedding": table}, "classifier": np.zeros((1, table.shape[1]), np.float32)}
    return np.asarray(built.apply({"params": params}, ids, method="mean_words"))


@pytest.mark.golden("ifseg", r"tokens_and_class_embedding.*")
def test_texts_and_class_rows(case, tmp_path):
    published, table = case.meta["dictionary"], case.weights["encoder.embed_tokens.weight"]
    for name, content in case.meta["lists"].items():
        classes, source = content["categories"], case.outputs[f"{name}.source"]
        tokenizer = ofa_dictionary.load_recorded(tmp_path / name, classes, source)
        assert tokenizer.id_of("<mask>") == published["mask"]
        assert (tokenizer.id_of("<code_0>"), tokenizer.id_of("<bin_0>")) == (published["code_0"], published["bin_0"])
        assert tokenizer.vocab_size == published["seg_0"] == published["embedding_rows"] - 1
        case.compare(f"{name}.source", np.array(texts.text_ids(tokenizer, classes), np.int32))
        case.compare(f"{name}.prompt_ids", np.array(tokenizer.encode(texts.PROMPT), np.int32))
        rows = [tokenizer.encode(word) for word in (*classes, texts.UNKNOWN)]
        case.compare(f"{name}.word_ids", np.concatenate(rows).astype(np.int32))
        case.compare(f"{name}.word_lens", np.array([*map(len, rows)], np.int32))
        case.compare(f"{name}.seg_codes", tokenizer.vocab_size + np.arange(len(rows)))
        padded = texts.pad_ids(rows[:-1], len(classes), max(map(len, rows)))
        case.compare(f"{name}.class_embedding", mean_words(table, padded))
    case.check()
