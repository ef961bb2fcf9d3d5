"""Musical keys: their names, and how near a wrong one is."""

import re

import numpy as np
from jaxtyping import Float

_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_SIGNS = {"#": 1, "♯": 1, "b": -1, "♭": -1, "-": -1, "s": 1}
_KEY = re.compile(r"\s*([A-Ga-g])\s*([#♯b♭s-]*)\s*[ :_]?\s*(major|maj|minor|min|m|M)?\s*")
NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


def parse_key(name: str) -> tuple[int, str] | None:
    """Tonic, 0 to 11 from C, and `major` or `minor`; None for what is no key.

    `Eb minor`, `E-flat` written `E-`, `eb:min` and `D#m` are the same. Without a mode, a small
    letter is minor, as in music21.
    """
    found = _KEY.fullmatch(name)
    if found is None:
        return None
    letter, signs, mode = found.groups()
    tonic = (_STEPS[letter.lower()] + sum(_SIGNS[sign] for sign in signs)) % 12
    if mode is None:
        return tonic, "minor" if letter.islower() else "major"
    return tonic, "minor" if mode in ("minor", "min", "m") else "major"


def key_name(tonic: int, mode: str) -> str:
    """`Eb minor` and so on."""
    return f"{NAMES[tonic % 12]} {mode}"


def weighted_scores(names: tuple[str, ...]) -> Float[np.ndarray, "true said"] | None:
    """What it is worth to say one key for another, as in MIREX and mir_eval.

    1 for the same key, 0.5 for the one a fifth above, 0.3 for the relative one, 0.2 for the
    parallel one, else 0.

    Returns:
        (true, said) scores of the keys of those names; None if some are no keys.
    """
    keys = [parse_key(name) for name in names]
    known = [key for key in keys if key is not None]
    if len(known) < len(keys) or not keys:
        return None
    return np.array([[_score(true, said) for said in known] for true in known])


def _score(true: tuple[int, str], said: tuple[int, str]) -> float:
    if true == said:
        return 1.0
    up = (said[0] - true[0]) % 12
    if true[1] == said[1]:
        return 0.5 if up == 7 else 0.0
    if up == (9 if true[1] == "major" else 3):
        return 0.3
    return 0.2 if up == 0 else 0.0
