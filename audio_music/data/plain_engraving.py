"""A small engraver without other programs: noteheads, stems, bars on two staves, and random music.

No notation that a musician would print, but the same kind of files as real engraving gives, in a
hundredth of the time.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from audio_music.data.engraving import Engraving, Notehead

_HEIGHT = 232
_SPACE = 9  # pixels from line to line
_TOP = {"treble": 62, "bass": 134}  # y of the highest line
_HIGHEST = {"treble": 77, "bass": 57}  # MIDI number on that line: F5 and A3
_LEFT, _BEAT = 70, 42  # pixels before the first note, and of a quarter
_SEMITONES = (0, 2, 4, 5, 7, 9, 11)
_FINER = 4  # drawn so many times as large
_LINE, _LINES = 16, 4  # beats of a line, and lines of a page


def engrave_random(name: str, seed: int, beats: int = 40, tempo: float = 96.0) -> Engraving:
    """A random piece in C major: a melody of quarters and eighths over a bass of quarters.

    Args:
        name: of the piece.
        seed: of the music.
        beats: quarter notes.
        tempo: quarter notes a minute.
    """
    random = np.random.default_rng(seed)
    degrees = {"treble": _walk(random, 2 * beats, 28, 40), "bass": _walk(random, beats, 14, 26)}
    is_split = random.random(beats) < 0.4
    beat = 60 / tempo
    notes: list[tuple[str, float, float, int]] = []
    for place in range(beats):
        notes.append(("bass", place, 1.0, degrees["bass"][place]))
        halves = (0, 1) if is_split[place] else (0,)
        length = 1 / len(halves)
        for half in halves:
            upper = degrees["treble"][2 * place + half]
            notes.append(("treble", place + half * length, length, upper))
            if not half and random.random() < 0.5:  # a third below
                notes.append(("treble", place, length, upper - 2))
    heads = []
    width = _LEFT + _BEAT * beats + 30
    page = Image.new("L", (width * _FINER, _HEIGHT * _FINER), 255)
    draw = ImageDraw.Draw(page)
    _draw_staves(draw, width, beats)
    for staff, at, length, degree in notes:
        x, y = _LEFT + _BEAT * at, _y_of(staff, degree)
        _draw_note(draw, x, y, stem_up=staff == "bass" or y > _TOP[staff] + 2 * _SPACE)
        heads.append(Notehead(at * beat, length * beat, _midi(degree), x, y))
    unrolled = np.asarray(page.resize((width, _HEIGHT), Image.Resampling.BOX))
    heads.sort(key=lambda head: (head.onset, head.pitch))
    melody = tuple(_midi(degree) for degree in degrees["treble"][::2])
    return Engraving(name, unrolled, *_on_pages(unrolled, heads), melody)


def _walk(random: np.random.Generator, n: int, low: int, high: int) -> list[int]:
    steps = random.choice([-3, -2, -1, -1, 1, 1, 2, 3], size=n)
    place, walked = int(random.integers(low, high + 1)), []
    for step in steps:
        place += int(step)
        place = 2 * low - place if place < low else 2 * high - place if place > high else place
        walked.append(place)
    return walked


def _midi(degree: int) -> int:
    """MIDI number of a white key, counted from C0."""
    return 12 + 12 * (degree // 7) + _SEMITONES[degree % 7]


def _y_of(staff: str, degree: int) -> float:
    highest = next(d for d in range(80) if _midi(d) == _HIGHEST[staff])
    return _TOP[staff] + (highest - degree) * _SPACE / 2


def _draw_staves(draw: ImageDraw.ImageDraw, width: int, beats: int) -> None:
    for top in _TOP.values():
        for line in range(5):
            y = (top + line * _SPACE) * _FINER
            draw.line((10 * _FINER, y, (width - 10) * _FINER, y), 0, _FINER)
    for bar in [10, *(_LEFT + _BEAT * (place - 0.4) for place in range(4, beats, 4)), width - 10]:
        ends = (_TOP["treble"] * _FINER, (_TOP["bass"] + 4 * _SPACE) * _FINER)
        draw.line((bar * _FINER, ends[0], bar * _FINER, ends[1]), 0, _FINER)


def _draw_note(draw: ImageDraw.ImageDraw, x: float, y: float, stem_up: bool) -> None:
    x, y, half, high = (v * _FINER for v in (x, y, 0.59 * _SPACE, 0.5 * _SPACE))
    draw.ellipse((x - half, y - high, x + half, y + high), 0)
    side = half if stem_up else -half
    end = y + (-3.5 if stem_up else 3.5) * _SPACE * _FINER
    draw.line((x + side, y, x + side, end), 0, _FINER + 1)


def _on_pages(
    unrolled: UInt8[np.ndarray, "height width"], heads: list[Notehead]
) -> tuple[list[Notehead], list[UInt8[np.ndarray, "page_height page_width"]]]:
    """The system cut into lines of so many beats, and those stacked on pages."""
    line = _BEAT * _LINE
    first = _LEFT - round(0.4 * _BEAT)  # of the first line, whose clef would stand before it
    n_lines = -(-(unrolled.shape[1] - first) // line)
    page_height = _LINES * _HEIGHT
    pages = np.full((-(-n_lines // _LINES), page_height, first + line), 255, np.uint8)
    for number in range(n_lines):
        start = first + number * line if number else 0
        part = unrolled[:, start : first + (number + 1) * line]
        at = 0 if number == 0 else first
        top = number % _LINES * _HEIGHT
        pages[number // _LINES, top : top + _HEIGHT, at : at + part.shape[1]] = part
    placed = []
    for head in heads:
        number = max(0, int((head.x - first) // line))
        y = head.y + number % _LINES * _HEIGHT
        place = {"page": number // _LINES, "page_x": head.x - number * line, "page_y": y}
        placed.append(replace(head, **place))
    return placed, list(pages)
