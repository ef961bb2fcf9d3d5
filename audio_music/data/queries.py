"""What a search is asked for: an onset of the data, or a place in a file of one's own."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from audio_music.data.log_filterbank import FPS, LogFilterbank
from audio_music.data.scores import SheetMusic
from audio_music.data.snippets import AUDIO, MARGIN, SHEET, WINDOW, halved, strip
from audio_music.data.unpaired import read_system, read_wave
from core.data.checks import DataError

_FORMS = "sheet:PIECE@SECONDS, audio:PIECE@SECONDS, audio:FILE.wav@SECONDS or sheet:FILE.png@PIXEL"


def asked_snippet(data: SheetMusic, query: str) -> tuple[str, Float[Tensor, "1 1 height width"]]:
    """Modality and snippet of a query.

    Raises:
        DataError: it names nothing that is there.
    """
    kind, _, name = query.partition(":")
    if kind not in (SHEET, AUDIO) or not name:
        raise DataError(f"query={query}", expected=_FORMS)
    device = data.piece.device
    if (row := row_of(data, name)) is not None:
        return kind, data.pairs(torch.tensor([row], device=device))[kind]
    file, at = place_in_file(name)
    if not file.is_file():
        ids = data.ids
        raise DataError(
            f"query={query}: no such onset in the data, and no such file",
            expected=f"{_FORMS}; one of {len(ids)} onsets such as {', '.join(ids[:3])}",
        )
    if kind == AUDIO:
        wave = torch.from_numpy(read_wave(file)).float()[None].to(device) / 32768
        spectrogram = LogFilterbank().to(device)(wave)[0]
        middle = spectrogram.shape[1] // 2 if at is None else round(at * FPS)
        return kind, _window(spectrogram, middle, data.frames, 0, file)[None, None]
    system = torch.from_numpy(strip(read_system(file)).copy()).to(device)
    middle = system.shape[1] // 2 if at is None else round(at)
    cut = _window(system, middle, WINDOW[1], 255, file)[MARGIN:-MARGIN]
    return kind, halved(cut[None, None].float() / 255)


def row_of(data: SheetMusic, name: str) -> int | None:
    """The pair of PIECE@SECONDS."""
    ids = data.ids
    return ids.index(name) if name in ids else None


def place_in_file(name: str) -> tuple[Path, float | None]:
    """FILE and PLACE of FILE@PLACE; without a place, None."""
    file, _, at = name.rpartition("@")
    try:
        return (Path(file), float(at)) if file else (Path(name), None)
    except ValueError:
        return Path(name), None


def _window(
    values: Float[Tensor, "rows columns"], middle: int, width: int, fill: float, file: Path
) -> Float[Tensor, "rows width"]:
    """Columns around the middle, `fill` beyond the ends."""
    if not 0 <= middle < values.shape[1]:
        raise DataError(
            f"place {middle} of {values.shape[1]} frames or pixels",
            path=file,
            expected="a place within",
        )
    padded = torch.nn.functional.pad(values, (width, width), value=fill)
    start = middle + width - width // 2
    return padded[:, start : start + width]
