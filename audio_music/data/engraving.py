"""Scores as pictures, with the place of every notehead: music21's corpus, engraved by verovio.

A chorale becomes two staves, the upper and the lower two voices together. The same notes are one
endless system (`unrolled`) and pages; noteheads are joined to the notes that sound by their ids, so
the alignment comes from the score and nothing is guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import UInt8

from core.data.checks import DataError

if TYPE_CHECKING:
    from music21.stream import Score
    from verovio import toolkit

INSTALL = "pip install 'consilience[scores]', or take the built-in engraver: demo.engraver=plain"
FONTS = ("Bravura", "Leland", "Petaluma", "Leipzig", "Gootville")
_SCALE = 50  # per cent of verovio's size: 9 pixels from line to line, as the snippets expect
_HALF_HEAD = 106  # half a notehead, in units of the SVG
_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_PAGE = {"pageWidth": 2100, "pageHeight": 2970, "breaks": "auto", "adjustPageHeight": False}


@dataclass(frozen=True)
class Notehead:
    """A notehead and what it sounds like.

    Attributes:
        onset: seconds from the beginning, as written.
        seconds: how long it sounds; 0 for one that a tie continues, which is not struck again.
        pitch: MIDI number.
        x: middle of the notehead in the unrolled system, in pixels.
        y: likewise, from the top.
        page: number of the page from 0, -1 without pages.
        page_x: middle of the notehead on the page, in pixels.
        page_y: likewise, from the top.
    """

    onset: float
    seconds: float
    pitch: int
    x: float
    y: float
    page: int = -1
    page_x: float = 0.0
    page_y: float = 0.0


@dataclass(frozen=True)
class Engraving:
    """A piece as it is printed.

    Attributes:
        name: of the piece.
        unrolled: (height, width) one endless system, black on white.
        noteheads: ordered by onset.
        pages: the same on pages.
        melody: MIDI numbers of the highest voice, one a beat.
    """

    name: str
    unrolled: UInt8[np.ndarray, "height width"]
    noteheads: list[Notehead]
    pages: list[UInt8[np.ndarray, "page_height page_width"]] = field(default_factory=list)
    melody: tuple[int, ...] = ()


def is_installed() -> bool:
    """Whether music21, verovio and resvg-py are there."""
    from importlib.util import find_spec

    return all(find_spec(name) for name in ("music21", "verovio", "resvg_py"))


def chorales() -> list[str]:
    """Names of Bach's chorales in music21's corpus, e.g. bwv66.6, in a fixed order.

    Raises:
        DataError: music21 is not installed.
    """
    _require()
    from music21 import corpus

    paths = [path for path in corpus.getPaths() if path.parent.name == "bach"]
    return sorted({path.name.removesuffix(".mxl") for path in paths if path.suffix == ".mxl"})


def parse(name: str) -> "Score | None":
    """A chorale of music21's corpus; None for one that is not in four voices.

    Raises:
        DataError: music21 is not installed.
    """
    _require()
    from music21 import corpus

    score = corpus.parse(f"bach/{name}")
    return score if len(score.parts) == 4 else None


def melody(score: "Score", beats: int = 24) -> tuple[int, ...]:
    """MIDI numbers of the first part, one a quarter note from the beginning on."""
    notes = score.parts[0].flatten().notes
    at = [(float(note.offset), note.pitches[-1].midi) for note in notes]
    sounding = []
    for beat in range(beats):
        before = [pitch for offset, pitch in at if offset <= beat + at[0][0]]
        sounding.append(before[-1])
    return tuple(sounding)


def same_melody(one: Sequence[int], other: Sequence[int], share: float = 0.7) -> bool:
    """Whether two melodies move alike on most beats, in whatever key and with whatever upbeat.

    Chorales share melodies across BWV numbers: set anew, transposed, ornamented.
    """
    first, second = np.diff(one), np.diff(other)
    for shift in (-2, -1, 0, 1, 2):
        a, b = first[max(shift, 0) :], second[max(-shift, 0) :]
        n = min(len(a), len(b))
        if n and np.mean(a[:n] == b[:n]) >= share:
            return True
    return False


def engrave(score: "Score", name: str, font: str = "Bravura", with_pages: bool = True) -> Engraving:
    """A chorale in two staves, unrolled and on pages.

    Args:
        score: of four parts.
        name: of the piece.
        font: one of `FONTS`.
        with_pages: also engrave pages of 2100 x 2970 units.

    Raises:
        DataError: verovio is not installed or cannot read the score.
    """
    _require()
    xml = _two_staves(score)
    kit = _toolkit(xml, name, font, {"breaks": "none"})
    svg = kit.renderToSVG(1)
    heads = _heads(svg)
    struck = _struck(kit)
    pages, on_page = _pages(xml, name, font) if with_pages else ([], {})
    missing = sorted(set(struck) - set(heads)) + sorted(
        set(struck) - set(on_page) if with_pages else ()
    )
    if missing:
        raise DataError(f"{name}: {len(missing)} notes without a notehead, such as {missing[0]}")
    noteheads = [
        Notehead(onset, seconds, pitch, *heads[key], *on_page.get(key, ()))
        for key, (onset, seconds, pitch) in struck.items()
    ]
    noteheads.sort(key=lambda head: (head.onset, head.pitch))
    return Engraving(name, _raster(svg), noteheads, pages, melody(score))


def _require() -> None:
    if not is_installed():
        raise DataError("music21, verovio or resvg-py is not installed", fix=INSTALL)


def _two_staves(score: "Score") -> str:
    """MusicXML of two staves with a brace: parts 1 and 2 above, 3 and 4 below."""
    from music21 import clef, layout, musicxml, stream

    out, staves = stream.Score(), []
    parts = list(score.parts)
    for voices, sign in ((parts[:2], clef.TrebleClef()), (parts[2:], clef.BassClef())):
        pair = stream.Score()
        for voice in voices:
            pair.insert(0, voice)
        staff = pair.chordify()
        for old in list(staff.recurse().getElementsByClass("Clef")):
            old.activeSite.remove(old)
        staff.getElementsByClass("Measure").first().insert(0, sign)
        out.insert(0, staff)
        staves.append(staff)
    out.insert(0, layout.StaffGroup(staves, symbol="brace"))
    return musicxml.m21ToXml.GeneralObjectExporter(out).parse().decode()


def _toolkit(xml: str, name: str, font: str, layout: dict[str, Any]) -> "toolkit":
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    kit = verovio.toolkit()
    kit.setOptions(
        {
            "xmlIdSeed": 1,  # so that ids agree between two layouts
            "scale": _SCALE,
            "font": font,
            "adjustPageWidth": True,
            "adjustPageHeight": True,
            "header": "none",
            "footer": "none",
            "expandNever": True,  # repeats are played once, so that every note has one notehead
        }
        | layout
    )
    if not kit.loadData(xml):
        raise DataError(f"verovio cannot read {name}")
    return kit


def _struck(kit: "toolkit") -> dict[str, tuple[float, float, int]]:
    """Id -> onset and length in seconds, and pitch; of length 0 where a tie continues the note."""
    kit.renderToMIDI()  # computes the times
    ids = [key for event in kit.renderToTimemap() for key in event.get("on", ())]
    values = {key: kit.getMIDIValuesForElement(key) for key in ids}
    found = {k: [v["time"] / 1000, v["duration"] / 1000, v["pitch"]] for k, v in values.items()}
    continued = {}
    for tie in ElementTree.fromstring(kit.getMEI()).iter(
        "{http://www.music-encoding.org/ns/mei}tie"
    ):
        continued[tie.get("startid", "")[1:]] = tie.get("endid", "")[1:]
    followers = set(continued.values())
    for key in found:
        at = key
        while key not in followers and (at := continued.get(at, "")) in found:
            found[key][1] += found[at][1]
    for key in followers & set(found):
        found[key][1] = 0.0
    return {key: (onset, seconds, int(pitch)) for key, (onset, seconds, pitch) in found.items()}


def _pages(
    xml: str, name: str, font: str
) -> tuple[list[np.ndarray], dict[str, tuple[int, float, float]]]:
    kit = _toolkit(xml, name, font, _PAGE)
    pages, places = [], {}
    for number in range(kit.getPageCount()):
        svg = kit.renderToSVG(number + 1)
        pages.append(_raster(svg))
        places |= {key: (number, x, y) for key, (x, y) in _heads(svg).items()}
    return pages, places


def _heads(svg: str) -> dict[str, tuple[float, float]]:
    """Id of a note -> middle of its notehead in pixels."""
    root = ElementTree.fromstring(svg)
    inner = next(of for of in root.iter(f"{_SVG}svg") if of.get("class") == "definition-scale")
    pixels = float(root.get("width", "0").removesuffix("px")) / float(
        inner.get("viewBox", "").split()[2]
    )
    found: dict[str, tuple[float, float]] = {}

    def walk(node: ElementTree.Element, x: float, y: float, note: str | None) -> None:
        dx, dy = _moved(node.get("transform", ""))
        x, y = x + dx, y + dy
        kind = node.get("class", "").split()
        if "note" in kind:
            note = node.get("id")
        if "notehead" in kind and note is not None:
            use = next(node.iter(f"{_SVG}use"))
            dx, dy = _moved(use.get("transform", ""))
            found[note] = ((x + dx + _HALF_HEAD) * pixels, (y + dy) * pixels)
            return
        for child in node:
            walk(child, x, y, note)

    walk(inner, 0, 0, None)
    return found


def _moved(transform: str) -> tuple[float, float]:
    if not transform.startswith("translate("):
        return 0.0, 0.0
    x, y = transform.removeprefix("translate(").partition(")")[0].replace(",", " ").split()
    return float(x), float(y)


def _raster(svg: str) -> UInt8[np.ndarray, "height width"]:
    import io

    from PIL import Image
    from resvg_py import svg_to_bytes

    data = bytes(svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True))
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))
