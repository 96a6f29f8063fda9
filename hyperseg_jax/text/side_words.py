"""Words for left and right in several languages: those with a known opposite, and those at which a text is left as it is."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PAIRS = {
    "english": """left right, leftmost rightmost, lefthand righthand, lefthanded righthanded, lefthander righthander,
    leftside rightside, leftward rightward, leftwards rightwards, lefty righty, leftie rightie, lefties righties,
    leftest rightest, leftish rightish, lhs rhs""",
    "german": """links rechts, linke rechte, linken rechten, linker rechter, linkes rechtes, linkem rechtem, linkerhand
    rechterhand, linksseitig rechtsseitig, linksaußen rechtsaußen, linkshänder rechtshänder, halblinks halbrechts""",
    "dutch": "linkse rechtse, linkerkant rechterkant, linkerzijde rechterzijde, uiterst-links uiterst-rechts",
    "french": "gauche droite, gauches droites",
    "spanish": "izquierda derecha, izquierdo derecho, izquierdas derechas, izquierdos derechos",
    "italian": "sinistra destra, sinistro destro, sinistri destri",
    "portuguese": "esquerda direita, esquerdo direito, esquerdas direitas, esquerdos direitos",
}


def _opposites(text: str) -> dict[str, str]:
    """Returns {word: its opposite} of pairs, in both directions."""
    pairs = [pair.split() for pair in text.split(",")]
    return {a: b for pair in pairs for a, b in (pair, pair[::-1])}


def _joined(first: str, second: str) -> dict[str, str]:
    """Returns the opposites of words that join a place and a side, in both orders: "topleft", "rightbottom"."""
    places = ("top", "bottom", "upper", "lower", "far", "mid", "middle", "center", "centre", "front", "back")
    ends = ("", "most", "side", "hand")
    return {f"{place}{first}{end}": f"{place}{second}{end}" for place in places for end in ends} | {
        f"{first}{place}": f"{second}{place}" for place in places
    }


_ENGLISH = _opposites(_PAIRS["english"]) | _joined("left", "right") | _joined("right", "left")
ENGLISH_OPPOSITES = _ENGLISH | {
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "anticlockwise": "clockwise",
}
"""{word: the word of a mirrored image} in English."""
OPPOSITES = {
    word: other for language, pairs in _PAIRS.items() if language != "english" for word, other in _opposites(pairs).items()
}
"""{word: the word of a mirrored image} in German, Dutch, French, Spanish, Italian and Portuguese."""

SIGNS = {"左": "右", "右": "左", "ひだり": "みぎ", "みぎ": "ひだり", "ヒダリ": "ミギ", "ミギ": "ヒダリ"}
"""{sign: the sign of a mirrored image} in Chinese and Japanese."""
SYMMETRIC_SIGNS = ("左右", "右左", "座右")
"""Words of such signs that mean both sides, or none."""

HARMLESS = _words(
    """rights rightful rightfully rightly righteous righteously righteousness bright brighter brightest brightly brightness
    brights fright frightened frightening frighten frightful frights upright uprights outright forthright copyright
    copyrights copyrighted birthright birthrights downright alright wright playwright playwrights wheelwright millwright
    shipwright cartwright leftover leftovers cleft clefts links cufflinks linked pedestrian pedestrians destroy destroyed
    destroyer destruction adroit"""
)
"""English words that name no side and contain a part of a word that does."""
UNCLEAR = _words(
    """l r lt rt lft lef leff letf elft leftt lefft rght rgt rigt righ rigth rihgt righht rite rit rightt southpaw starboard
    larboard portside nearside offside wrongside dexter sinister"""
)
"""English words that are or may be sides without a certain opposite: abbreviations and misspellings of published expressions,
and sides of vehicles."""
OTHER_SIDES = _words(
    """droit droits gche dte sinistre destre izq izqda izqdo dcha dcho zurdo zurda diestro diestra mancino mancina canhoto
    canhota recht regs esquerra esquerre dreta dret dereita stânga stanga dreapta dreptul vänster vänstra höger högra
    venstre høyre højre vinstri hægri vasen vasemmalla vasemman vasemmanpuoleinen oikea oikealla oikean oikeanpuoleinen
    vasak vasakul paremal lewy lewa lewo lewej lewym lewe prawy prawa prawo prawej prawym prawe vlevo vpravo levý levá levé
    pravý pravá pravé vľavo ľavý ľavá lijevo lijevi lijeva desno desni desna levo levi leva bal balra baloldali jobb jobbra
    jobboldali sağ sağda sağdaki solda soldaki solundaki kiri kanan kaliwa trái phải kushoto kulia ezker ezkerreko
    eskuin eskuineko kreisā kreisais labajā kairė kairėje dešinė dešinėje majtas djathtas xellug lemin chwith clé deas
    maldekstra maldekstre dekstra dekstre"""
)
"""Words of further languages, and such without a certain opposite: a text that has one is left as it is."""
STEMS = (
    "left",
    "right",
    "links",
    "linke",
    "recht",
    "gauch",
    "droit",
    "izquierd",
    "derech",
    "sinistr",
    "destr",
    "esquerd",
    "direit",
)
"""A word that contains one of them, and is none of the words above, may name a side."""
