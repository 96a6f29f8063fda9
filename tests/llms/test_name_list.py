"""NameList allows exactly the texts that consist of names of its list."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.llms.decoding import Decoding
from hyperseg_jax.llms.generate import generate
from hyperseg_jax.llms.name_list import NameList, restrict

END, SEPARATOR, VOCAB = 9, (7, 8), 12
NAMES = ((1,), (1, 2), (3, 1), (1, 2, 4))  # some begin like others
NONE = (5, 1)


def make_list(names=NAMES, *, limit=2, repeats=False, restricted=True, texts=1):
    """Returns a NameList with one row of padding between the names and the last one."""
    items = np.full((len(names) + 2, 6), -1, np.int32)
    for row, name in zip((*range(len(names)), -1), (*names, NONE), strict=True):
        items[row, : len(SEPARATOR + name)] = SEPARATOR + name
    rows = lambda value: jnp.full(texts, value, jnp.int32)
    items = jnp.broadcast_to(items, (texts, *items.shape))
    return NameList(items, rows(len(SEPARATOR)), rows(END), rows(limit), rows(VOCAB - 1), repeats, restricted)


def expected_texts(names, *, limit, repeats, room):
    """Returns all texts of the list without the end token, of at most `room` tokens."""
    choose = functools.partial(itertools.product, names) if repeats else functools.partial(itertools.permutations, names)
    texts = {NONE}
    for count in range(1, limit + 1):
        for chosen in choose(repeat=count) if repeats else choose(count):
            texts.add(tuple(itertools.chain(chosen[0], *(SEPARATOR + name for name in chosen[1:]))))
    return {text for text in texts if len(text) <= room}


def allowed_texts(names, size):
    """Returns all texts of at most `size` tokens with the end that can be written by following `allowed`."""
    found, open_texts = set(), [((), names.start())]
    allowed = jax.jit(lambda progress, room: names.allowed(progress, room, VOCAB))
    advance = jax.jit(names.advance)
    while open_texts:
        text, progress = open_texts.pop()
        room = jnp.int32(size - 1 - len(text))
        for token in np.flatnonzero(allowed(progress, room)[0]).tolist():
            if token == END:
                found.add(text)
            else:
                assert len(text) < size - 1
                open_texts.append(((*text, token), advance(progress, jnp.array([token], jnp.int32), room)))
    return found


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize(("limit", "size"), [(1, 8), (2, 6), (2, 9), (3, 8)])
def test_the_allowed_texts_are_those_of_the_list(limit, size, repeats):
    assert allowed_texts(make_list(limit=limit, repeats=repeats), size) == expected_texts(
        NAMES, limit=limit, repeats=repeats, room=size - 1
    )


def test_without_a_name_that_may_follow_the_text_is_empty():
    assert allowed_texts(make_list(limit=0), 5) == {()}
    assert allowed_texts(make_list(((1, 2, 3),)), 2) == {()}, "no name fits"


def test_unrestricted_texts_have_any_tokens_of_the_vocabulary():
    names = make_list(restricted=False)
    allowed = lambda room: np.flatnonzero(names.allowed(names.start(), jnp.int32(room), VOCAB)[0]).tolist()
    assert allowed(3) == list(range(VOCAB - 1)) and allowed(0) == [END]


def test_the_class_of_each_token():
    names = make_list(texts=2)
    ids = jnp.array([[1, 2, *SEPARATOR, 3, 1, END, END], [*NONE, END, END, END, END, END, END]], jnp.int32)
    assert names.classes_of(ids).tolist() == [[1, 1, -1, -1, 2, 2, -1, -1], [5, 5, *[-1] * 6]]


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_generated_texts_are_the_most_probable_ones_of_the_list(beams):
    """With beams as many as texts, the search finds the best text; greedy decoding takes the best token at each step."""
    size, texts = 6, 5
    table = np.random.default_rng(0).standard_normal((texts, size, VOCAB)).astype(np.float32) * 2
    names = make_list(texts=texts)
    kind = "greedy" if beams == 1 else "beams"
    decoding = Decoding(kind=kind, max_new_tokens=size, beams=max(beams, 2), eos_id=END, length_penalty=0.0)
    room = lambda index: jnp.int32(size - 1 - index)

    def step(ids, index, state):
        table, names, progress = state
        progress = names.advance(progress, ids, room(index))
        return restrict(names, progress, table[:, index + 1], room(index + 1)), (table, names, progress)

    @jax.jit
    def run(table, names):
        first = restrict(names, names.start(), table[:, 0], room(0))
        return generate(first, step, (table, names, names.start()), jax.random.split(jax.random.key(0), texts), decoding)

    for row, ids in enumerate(np.asarray(run(jnp.asarray(table), names))):
        text = tuple(ids[: ids.tolist().index(END)].tolist())
        possible = expected_texts(NAMES, limit=2, repeats=False, room=size - 1)
        assert text in possible
        if beams == 1:
            assert ids.tolist() == greedy(table[row], possible, size)


def greedy(logits, possible, size):
    """Returns the text of the most probable token at each step, in plain Python."""
    text = ()
    while True:
        following = {(*each, END)[len(text)] for each in possible if each[: len(text)] == text}
        token = max(following, key=lambda token: logits[len(text), token])
        if token == END:
            return [*text, *[END] * (size - len(text))]
        text = (*text, token)
