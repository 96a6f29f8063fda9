"""Scores of captions by external tools: METEOR, SPICE and the official words of captions (Java programs that come with
pycocoevalcap), and recall of nouns and verbs (spaCy).

Captions are passed in files and on the standard input, never in a command line.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.metrics.caption_baselines import blind_cider, swapped_cider
from hyperseg_jax.metrics.caption_words import remove_punctuation, split_words
from hyperseg_jax.metrics.captions import Caption, CaptionScores, score_words
from hyperseg_jax.metrics.word_recall import WORDS, fuzzy_recall, word_recall
from hyperseg_jax.untrusted.printing import escaped, escaped_value

PACKAGE, EXTRA = "pycocoevalcap", "pip install 'hyperseg-jax[captions]'"
SPLITTER = "tokenizer/stanford-corenlp-3.4.1.jar"
METEOR = "meteor/meteor-1.5.jar"
SPICE = "spice/spice-1.0.jar"
SPICE_PARSER = ("spice/lib/stanford-corenlp-3.6.0.jar", "spice/lib/stanford-corenlp-3.6.0-models.jar")
"""The parser of SPICE, which is not part of the package."""
SPICE_SOURCE = "nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
SEPARATOR = "|||"
"""Separates the texts of a line for METEOR."""


@dataclasses.dataclass(frozen=True)
class JavaTools:
    """The Java programs. java: the command. folder: of the package that has them."""

    java: str
    folder: pathlib.Path

    @classmethod
    def find(cls) -> JavaTools:
        """Finds Java and the programs. Raises UserError if one of them is missing."""
        needs = "METEOR, SPICE and the official words of captions need"
        java, spec = shutil.which("java"), importlib.util.find_spec(PACKAGE)
        if java is None:
            raise UserError(f"{needs} Java, and there is no command java; install a Java runtime")
        folder = pathlib.Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else None
        if folder is None or not all((folder / jar).is_file() for jar in (SPLITTER, METEOR, SPICE)):
            raise UserError(f"{needs} the programs of {PACKAGE}; {EXTRA}")
        return cls(java, folder)

    def split_words(self, texts: Sequence[str]) -> list[str]:
        """Returns the words of each text, separated by spaces: Penn Treebank tokens in lower case, without punctuation."""
        if not texts:
            return []
        options = ["-cp", str(self.folder / SPLITTER), "edu.stanford.nlp.process.PTBTokenizer"]
        lines = "".join(f"{_one_line(text)}\n" for text in texts)
        done = subprocess.run(
            [self.java, *options, "-preserveLines", "-lowerCase", "-encoding", "UTF-8"],
            input=lines.encode("utf-8"),
            capture_output=True,
            check=False,
        )
        tokens = done.stdout.decode("utf-8", "replace").splitlines()
        if done.returncode or len(tokens) != len(texts):
            raise _failure("the tokenizer", done.stderr, f"{len(tokens)} lines for {len(texts)} texts")
        return [remove_punctuation(line) for line in tokens]

    def meteor(self, captions: Sequence[Caption]) -> float:
        """Returns METEOR 1.5 of all captions, 0 to 1, which is not the mean of single scores. captions: in words."""
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [self.java, "-Xmx2G", "-jar", METEOR.partition("/")[2], "-", "-", "-stdio", "-l", "en", "-norm"],
                cwd=self.folder / "meteor",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            try:
                score = _ask_meteor(process, captions)
            except (OSError, ValueError) as error:
                process.kill()
                process.wait()
                errors.seek(0)
                raise _failure("METEOR", errors.read(), str(error)) from error
            finally:
                process.kill()
                process.wait()
        return score

    def missing_parser(self) -> list[pathlib.Path]:
        """Returns the files that SPICE still needs."""
        return [self.folder / jar for jar in SPICE_PARSER if not (self.folder / jar).is_file()]

    def spice(self, captions: Sequence[Caption]) -> float:
        """Returns the mean SPICE (F-score of all tuples) of captions in words, 0 to 1; an undefined score counts as 0."""
        with tempfile.TemporaryDirectory() as folder:
            given, result = pathlib.Path(folder) / "captions.json", pathlib.Path(folder) / "scores.json"
            rows = [{"image_id": k, "test": text, "refs": list(texts)} for k, (text, texts) in enumerate(captions)]
            given.write_text(json.dumps(rows))
            options = ["-Xmx8G", "-jar", SPICE.partition("/")[2], str(given), "-out", str(result), "-silent"]
            done = subprocess.run([self.java, *options], cwd=self.folder / "spice", capture_output=True, check=False)
            if done.returncode or not result.is_file():
                raise _failure("SPICE", done.stderr, f"exit code {done.returncode}")
            scores = [float(row["scores"]["All"]["f"]) for row in json.loads(result.read_text())]
        return float(np.mean(np.nan_to_num(scores)))


def _one_line(text: str) -> str:
    """Returns a text without line breaks and without what UTF-8 cannot encode."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def _ask_meteor(process: subprocess.Popen[bytes], captions: Sequence[Caption]) -> float:
    """Sends all captions to METEOR, and returns the last number of its reply. Raises OSError or ValueError if it stops."""
    assert process.stdin is not None and process.stdout is not None
    ask, reply = process.stdin, process.stdout
    statistics = []
    for text, references in captions:
        texts = [part.replace(SEPARATOR, " ") for part in map(_one_line, (*references, text))]
        ask.write(f"{f' {SEPARATOR} '.join(('SCORE', *texts))}\n".encode())
        ask.flush()
        statistics.append(reply.readline().decode().strip())
    ask.write(f"{f' {SEPARATOR} '.join(('EVAL', *statistics))}\n".encode())
    ask.close()
    numbers = [float(line) for line in reply.read().decode().split()]
    if len(numbers) != len(captions) + 1:
        raise ValueError(f"{len(numbers)} scores for {len(captions)} captions")
    return numbers[-1]


def _failure(what: str, errors: bytes, why: str) -> UserError:
    """Returns the error of a program that failed, with the last line that it printed. errors: its error output."""
    lines = [line for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    return UserError(f"{what} failed ({escaped(lines[-1] if lines else why)}); check the Java installation")


def load_spacy(name: str) -> Callable[..., Any]:
    """Loads the spaCy pipeline that tags parts of speech. name: an installed package or a folder; both are code, so it must be
    trusted. Raises UserError if it cannot be loaded or does not tag."""
    try:
        import spacy
    except ImportError as error:
        raise UserError(f"--spacy-model {escaped(name)}: spaCy is not installed; {EXTRA}") from error
    try:
        pipeline: Any = spacy.load(name)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"--spacy-model {escaped_value(name)}: no such pipeline; install it with python -m spacy download NAME"
        ) from error
    check_tags(name, pipeline)
    return pipeline


def check_tags(name: str, pipeline: Any) -> None:
    """Raises UserError if a pipeline does not tag parts of speech."""
    if not any(token.pos_ for token in pipeline("a dog runs")):
        raise UserError(f"--spacy-model {escaped_value(name)}: does not tag parts of speech; use one such as en_core_web_lg")


def recall_scores(captions: Sequence[Caption], pipeline: Any, log: Callable[[str], None]) -> dict[str, float]:
    """Returns the mean recall of nouns and verbs, and with similar words if the pipeline has word vectors. Several references
    are one text."""
    names = [*WORDS, *(f"{kind}_fuzzy" for kind in WORDS)] if pipeline.vocab.vectors_length else list(WORDS)
    if len(names) == len(WORDS):
        log("the spaCy pipeline has no word vectors, so there is no fuzzy recall of nouns and verbs")
    sums = dict.fromkeys(names, 0.0)
    texts = itertools.chain.from_iterable((text, " ".join(references)) for text, references in captions)
    documents = iter(pipeline.pipe(texts))
    for _ in captions:
        ours, truth = next(documents), next(documents)
        for kind in WORDS:
            recall, words = word_recall(ours, truth, kind)
            sums[kind] += recall
            if f"{kind}_fuzzy" in sums:
                sums[f"{kind}_fuzzy"] += fuzzy_recall(*words)
    return {name: value / max(len(captions), 1) for name, value in sums.items()}


@dataclasses.dataclass(frozen=True)
class Tools:
    """The tools of an evaluation. pipeline: a spaCy pipeline, or None."""

    pipeline: Any = None

    def scores(self, captions: CaptionScores, log: Callable[[str], None]) -> dict[str, float]:
        """Returns the scores of all tools that are there; with Java, also CIDEr-D, BLEU and ROUGE-L of the official words.
        Adds two controls: "cider_swapped" and "cider_blind" (metrics/caption_baselines). log: receives a line for each tool
        that is missing or fails."""
        texts = captions.captions()
        if not texts:
            return {}
        unique = list(dict.fromkeys(text for caption, references in texts for text in (caption, *references)))
        scores: dict[str, float] = {}
        java: JavaTools | None = None
        split: Callable[[str], str] = split_words
        try:
            found = JavaTools.find()
            split = dict(zip(unique, found.split_words(unique), strict=True)).__getitem__
            java = found
        except UserError as error:
            log(f"{error}. CIDEr-D, BLEU and ROUGE-L are those of our own words")
        images = captions.words_by_example(split)
        words = [row for rows in images.values() for row in rows]
        if java is not None:
            scores |= score_words(words, str) | _score_or_log("meteor", java.meteor, words, log)
            if missing := java.missing_parser():
                log(f"SPICE needs {' and '.join(map(str, missing))}; both are in {SPICE_SOURCE}")
            else:
                scores |= _score_or_log("spice", java.spice, words, log)
        if self.pipeline is None:
            log("recall of nouns and verbs needs a spaCy pipeline: --spacy-model en_core_web_lg")
        else:
            scores |= recall_scores(texts, self.pipeline, log)
        return scores | {"cider_swapped": swapped_cider(images), "cider_blind": blind_cider(images)["best"]}


def _score_or_log(
    name: str, score: Callable[[Sequence[Caption]], float], words: Sequence[Caption], log: Callable[[str], None]
) -> dict[str, float]:
    """Returns {name: score(words)}, or logs the error and returns nothing: other scores of a long evaluation are not lost."""
    try:
        return {name: score(words)}
    except UserError as error:
        log(str(error))
        return {}
