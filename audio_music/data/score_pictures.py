"""What a search found, for a musician to check: pictures of scores and spectrograms, and sound."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped

from audio_music.data.log_filterbank import FPS, RATE
from audio_music.data.queries import asked_snippet, place_in_file, row_of
from audio_music.data.scores import SheetMusic
from audio_music.data.snippets import AUDIO, SHEET, WINDOW
from audio_music.data.unpaired import read_wave

_HEIGHT, _WIDTHS = 1.5, (3.4, 3.4)  # inches of a row, and of its spectrogram and its score
_TITLE, _TICKS = 0.45, 0.25  # inches above and below a row
_BEFORE = 2.1  # seconds of sound before the onset, and after it


class Shown(NamedTuple):
    """One row of the gallery.

    Attributes:
        title: what it is.
        audio: (bands, frames) or None.
        sheet: (height, width), 0 to 1, or None.
        sound: samples at 22,050 Hz, or None where there is no recording.
        same: whether it is the query's own onset.
    """

    title: str
    audio: Float[np.ndarray, "bands frames"] | None
    sheet: Float[np.ndarray, "height width"] | None
    sound: Shaped[np.ndarray, " samples"] | None
    same: bool = False


def draw_gallery(data: SheetMusic, query: str, rows: list[dict[str, Any]], file: Path) -> None:
    """Writes a PNG, and beside it a folder of the same name with the sound of every row.

    The first row is the query, with its counterpart in grey where the data have one; below it are
    the snippets that were found, each with what it looks like in the other modality. Files, pieces,
    seconds and pages are named; the red line is the onset and its notehead.

    Args:
        data: the data that were searched.
        query: see `audio_music.sheet_task.SheetRetrieval.search`.
        rows: what was found.
        file: the PNG.
    """
    target = SHEET if SHEET in rows[0] else AUDIO
    shown = [_query(data, query)]
    asked = row_of(data, query.partition(":")[2])
    for row in rows:
        number = row_of(data, row[target])
        assert number is not None
        title = f"{row['rank']}.  cosine {row['cosine']:.3f}"
        title += "  the query's own onset" if number == asked else ""
        shown.append(_pair(data, number, title, number == asked))
    _draw(shown, target, file)
    folder = file.with_suffix("")
    sounds = {f"{n}" if n else "query": one.sound for n, one in enumerate(shown)}
    if any(sound is not None for sound in sounds.values()):
        folder.mkdir(parents=True, exist_ok=True)
        for name, sound in sounds.items():
            if sound is not None:
                _write(folder / f"{name}.wav", sound)


def page_of(data: SheetMusic, row: int) -> int | None:
    """The page that a pair's notehead is printed on, from 1, where the data set says it."""
    piece, column = data.pieces[int(data.piece[row])], int(data.column[row])
    file = data.folder / "pages" / f"{piece}.csv"
    if not file.is_file():
        return None
    with file.open(newline="") as opened:
        places = [(int(row["x"]), int(row["page"])) for row in csv.DictReader(opened)]
    return min(places, key=lambda place: abs(place[0] - column))[1]


def _pair(data: SheetMusic, row: int, title: str, same: bool) -> Shown:
    snippets = data.pairs(torch.tensor([row], device=data.piece.device))
    piece, seconds = data.pieces[int(data.piece[row])], int(data.frame[row, 0]) / FPS
    performance = data.performances[int(data.performance[row, 0])]
    page = page_of(data, row)
    where = f"{piece}.npz, pixel {int(data.column[row])}" + (f", page {page}" if page else "")
    title = f"{title}\n{where}\n{performance}, {seconds:.2f} s"
    audio, sheet = (snippets[name][0, 0].cpu().numpy() for name in (AUDIO, SHEET))
    recording = data.folder / "recordings" / f"{performance}.wav"
    return Shown(title, audio, sheet, _excerpt(recording, seconds), same)


def _query(data: SheetMusic, query: str) -> Shown:
    kind, _, name = query.partition(":")
    row = row_of(data, name)
    if row is not None:
        return _pair(data, row, f"query: {kind}", True)
    snippet = asked_snippet(data, query)[1][0, 0].cpu().numpy()
    title = f"query: {kind}\n{name}"
    if kind == SHEET:
        return Shown(title, None, snippet, None)
    file, at = place_in_file(name)
    sound = read_wave(file)
    middle = len(sound) / RATE / 2 if at is None else at
    return Shown(title, snippet, None, _excerpt(file, middle))


def _excerpt(file: Path, seconds: float) -> Shaped[np.ndarray, " samples"] | None:
    if not file.is_file():
        return None
    first = round((seconds - _BEFORE) * RATE)
    return read_wave(file)[max(first, 0) : max(round((seconds + _BEFORE) * RATE), 1)]


def _write(file: Path, sound: Shaped[np.ndarray, " samples"]) -> None:
    from scipy.io.wavfile import write

    write(file, RATE, sound)


def _draw(shown: list[Shown], target: str, file: Path) -> None:
    from matplotlib.figure import Figure

    step = _TITLE + _HEIGHT + _TICKS
    size = (sum(_WIDTHS) + 0.9, step * len(shown) + 0.4)
    figure = Figure(figsize=size)
    figure.text(
        0.03,
        1 - 0.12 / size[1],
        f"found by {'sound' if target == SHEET else 'print'}: "
        f"{'scores' if target == SHEET else 'recordings'} (black frames); in grey what belongs to "
        "them",
        va="top",
        fontsize=9,
    )
    for number, one in enumerate(shown):
        bottom = size[1] - 0.35 - (number + 1) * step + _TICKS
        colour = "#1B7837" if number and one.same else "black"
        figure.text(
            0.35 / size[0],
            (bottom + _HEIGHT + 0.05) / size[1],
            one.title,
            fontsize=7,
            va="bottom",
            color=colour,
        )
        left = 0.35
        for name, width in zip((AUDIO, SHEET), _WIDTHS, strict=True):
            picture = one.audio if name == AUDIO else one.sheet
            place = (left / size[0], bottom / size[1], width / size[0], _HEIGHT / size[1])
            left += width + 0.2
            if picture is None:
                continue
            axes = figure.add_axes(place)
            seconds = picture.shape[1] / FPS / 2
            if name == AUDIO:
                axes.imshow(
                    picture,
                    aspect="auto",
                    origin="lower",
                    cmap="magma",
                    extent=(-seconds, seconds, 0, len(picture)),
                )
                axes.set_xlabel("s", fontsize=6, labelpad=0)
            else:
                half = WINDOW[1] / 2
                axes.imshow(
                    picture,
                    aspect="auto",
                    cmap="gray",
                    vmin=0,
                    vmax=1,
                    extent=(-half, half, WINDOW[0], 0),
                )
                axes.set_xlabel("pixels", fontsize=6, labelpad=0)
            axes.axvline(0, color="red", linewidth=0.8, alpha=0.7)
            axes.set_yticks([])
            axes.tick_params(labelsize=6, pad=1, length=2)
            # Black frames: what was asked with, and what was found.
            is_meant = name == target if number else name != target
            for spine in axes.spines.values():
                spine.set_linewidth(2 if is_meant else 0.5)
                spine.set_color("black" if is_meant else "#AAAAAA")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
