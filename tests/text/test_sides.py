"""Texts about mirrored images: each side is swapped, or the text is known to be free of sides, or it is left out."""

import pytest

from hyperseg_jax.datasets.class_names import CLASS_LISTS
from hyperseg_jax.text import sides
from hyperseg_jax.toy import corpus

SWAPPED = {
    "Left of the RIGHT one, leftover": "Right of the LEFT one, leftover",
    "leftmost person": "rightmost person",
    "the left-hand side": "the right-hand side",
    "righty in the white shirt": "lefty in the white shirt",
    "man on the lefthand side": "man on the righthand side",
    "left_shoe": "right_shoe",
    "topleft corner": "topright corner",
    "Bottomright bowl": "Bottomleft bowl",
    "leftbottom bowl": "rightbottom bowl",
    "the dog on the right next to the car": "the dog on the left next to the car",
    "from left to right": "from right to left",
    "the arrow turns clockwise": "the arrow turns counterclockwise",
    "it is left of the star": "it is right of the star",
    "der Hund links vom Baum": "der Hund rechts vom Baum",
    "Die linke Tasse": "Die rechte Tasse",
    "le chien à gauche de la voiture": "le chien à droite de la voiture",
    "el perro a la izquierda": "el perro a la derecha",
    "il cane a sinistra": "il cane a destra",
    "o cachorro à direita": "o cachorro à esquerda",
    "de hond aan de linkerkant": "de hond aan de rechterkant",
    "左边的狗": "右边的狗",
    "右側の犬": "左側の犬",
    "ひだりの犬": "みぎの犬",
    "左右两边的人": "左右两边的人",
    "the dog 左": "the dog 右",
}
FREE = (
    "the bright red cup",
    "a man in a copyrighted shirt, upright",
    "a pedestrian near the destroyed house",
    "two cufflinks on the table",
    "a café with white chairs",
    "红色的杯子",
    "赤いカップ",
    "der rote Hund auf dem Tisch",
    "",
    "12",
    "...",
)
UNKNOWN = (
    "the lft dog",
    "r side of the bed",
    "the man who left the room",
    "what is left of it is right here and has left",
    "the food left over",
    "the cat right behind the tree",
    "that is right",
    "the triangle with the right angle",
    "the car at 3 o'clock",
    "the driver's side door",
    "the starboard lamp",
    "the leftlane car",
    "leFt dog",
    "the ←-dog",
    "the dog 👈",
    "the \uff2c\uff25\uff26\uff34 dog",
    "the le\u00adft dog",
    "the vänster dog",
    "the kiri dog",
    "le chien sur le trottoir droit",
    "solundaki köpek",
    "koira vasemmalla",
    "anjing di sebelah kiri",
    "pies po lewej stronie",
    "hunden till vänster",
    "mbwa upande wa kushoto",
    "con chó bên trái",
    "собака слева",
    "왼쪽 개",
    "الكلب على اليسار",
    "เสือซ้าย",
    "quechua allqu lluq'i",
    "xyzzy",
)


@pytest.mark.parametrize("text", SWAPPED)
def test_sides_are_swapped(text):
    assert sides.swap([text]) == (SWAPPED[text],)
    assert sides.swap([SWAPPED[text]]) in ((text,), None) or "clockwise" in text


@pytest.mark.parametrize("text", FREE)
def test_texts_without_sides_stay(text):
    assert sides.swap([text]) == (text,)


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown_texts(text):
    assert sides.swap([text]) is None


def test_class_lists_and_toy_texts_are_known(monkeypatch):
    """Recipes with flips flip their images: the names of shipped class lists, and what the toy world says."""
    for names in CLASS_LISTS.values():
        assert sides.swap(names) == names
    monkeypatch.setattr(corpus, "SAMPLES", 12)
    texts = sorted(set(corpus.collect_sentences()))
    swapped = [sides.swap([text]) for text in texts]
    assert None not in swapped
    for text, (other,) in zip(texts, swapped, strict=True):
        assert sides.swap([other]) == (text,) and (other != text) == ("left" in text or "right" in text)


def test_names_of_one_list_share_a_language():
    """A rare name is known among common ones; one with an unknown side is not."""
    assert sides.swap(["dog", "cat", "left aardvark"]) == ("dog", "cat", "right aardvark")
    assert sides.swap(["aardvark"]) is None
    assert sides.swap(["dog", "cat", "lft shoe"]) is None
