"""Snippets as training sees them: pairs, and two views of one modality; all on the device."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from audio_music.data.lines import Lines
from audio_music.data.log_filterbank import CENTRED_HOP, FPS, RATE, LogFilterbank, compress
from audio_music.data.scores import SheetMusic
from audio_music.data.snippets import (
    AUDIO,
    LONGEST,
    MARGIN,
    SHEET,
    SIDE,
    WINDOW,
    halved,
    samples_of_view,
)
from audio_music.data.sound_files import SoundFiles
from core.augment.compose import Compose
from core.augment.draws import Draws
from core.augment.images import blurred
from core.augment.series import Jitter, changed
from core.augment.sound import (
    BandMask,
    Equalizer,
    Loudness,
    NoiseAtSNR,
    Polarity,
    Reverberation,
    Stretch,
    TimeMask,
)
from core.augment.warps import PerlinNoise, Warp

_EVERY = 100  # pixels between the snippets of an unpaired score
_LATER = 0.3  # snippets that the second view of a recording begins later, at most


@dataclass(frozen=True)
class PairViews:
    """Fine-tuning's augmentation: which performance, when exactly, and where on the page.

    Args:
        shift: of the system up or down, in pixels.
        scale: range of the size of the score.
        jitter: frames that the onset moves by, at most.
    """

    shift: float = 5.0
    scale: tuple[float, float] = (0.95, 1.05)
    jitter: int = 1

    def __call__(
        self, data: SheetMusic, rows: Int64[Tensor, " batch"], draws: Draws
    ) -> dict[str, Tensor]:
        """Both snippets of some pairs, a performance drawn for each."""
        most = data.performance.shape[1]
        chosen = (draws.uniform(0, 1, 1) * most).long().clamp(max=most - 1)
        performance = data.performance[rows].gather(1, chosen)[:, 0]
        frame = data.frame[rows].gather(1, chosen)[:, 0]
        steps = 2 * self.jitter + 1
        moved = (draws.uniform(0, 1) * steps).long().clamp(max=steps - 1) - self.jitter
        warp = Warp(size=WINDOW, shift=(0.0, self.shift), scale=self.scale)
        width = WINDOW[1] + 2 * MARGIN
        first = data.column[rows] - width // 2
        cut = data.scores.windows(data.piece[rows], first, width, 255)
        return {
            SHEET: halved(warp(cut[:, None].float() / 255, draws)),
            AUDIO: data.audio(performance, frame + moved),
        }


class SheetViews:
    """Two views of snippets of unpaired scores, as the pre-training of the authors makes them.

    What the card of the method leaves open is decided here: vertical shifts of 6 pixels after
    halving, noise of 0.1, blur of up to a pixel, Perlin stains of up to 0.3, elastic fields with
    knots 8 and 32 pixels apart and displacements of 0.7 and 2.5 pixels.

    Args:
        scores: the systems.
        items: which of them.
    """

    def __init__(self, scores: Lines, items: Int64[Tensor, " kept"]) -> None:
        self.scores = scores
        lengths = scores.lengths[items]
        counts = ((lengths - WINDOW[1]) // _EVERY + 1).clamp_min(0)
        self.items = items.repeat_interleave(counts)
        number = torch.arange(int(counts.sum()), device=items.device)
        before = (counts.cumsum(0) - counts).repeat_interleave(counts)
        self.columns = WINDOW[1] // 2 + (number - before) * _EVERY
        elastic = ((8, 0.7), (32, 2.5))
        p = (0.65, 0.65, 0.45, 0.35, 0.2)
        size = (WINDOW[0] // 2, WINDOW[1] // 2)
        self.warps = [
            Warp(size, (across, 6.0), (0.9, 1.1), 4.0, elastic, p) for across in (0.0, 20.0)
        ]
        self.noise, self.stains = Jitter(0.1, 0.25), PerlinNoise(16, 0.3, 0.2)

    def __len__(self) -> int:
        """Snippets there are."""
        return len(self.items)

    def __call__(self, draws: Draws) -> Float[Tensor, "2 batch 1 80 100"]:
        """Two views of snippets that are drawn, as many as `draws` has rows."""
        chosen = (draws.uniform(0, 1) * len(self)).long().clamp(max=len(self) - 1)
        width = WINDOW[1] + 2 * SIDE
        first = self.columns[chosen] - width // 2
        cut = self.scores.windows(self.items[chosen], first, width, 255)
        snippets = halved(cut[:, None].float() / 255)
        return torch.stack([self._view(snippets, warp, draws) for warp in self.warps])

    def _view(self, snippets: Tensor, warp: Warp, draws: Draws) -> Tensor:
        view = self.noise(warp(snippets, draws), draws)
        rows, sigma = draws.happens(0.25), draws.uniform(0.3, 1.0)
        return self.stains(changed(rows, blurred(view, sigma), view), draws)


@dataclass
class AudioViews:
    """Two views of snippets of unpaired recordings, as the pre-training of the authors makes them.

    A wave long enough for the fastest tempo is cut, so that every view has `frames` frames; the
    second view begins up to 0.3 snippets later. The impulse response, which the authors leave off,
    is off as well. Equaliser and tempo act on magnitudes, where they are cheap.

    Args:
        recordings: waves at 22,050 Hz, one row of int16, or files of them.
        items: which of them.
        frames: of a snippet.
        reverberation: how often a room is added.
    """

    recordings: Lines | SoundFiles
    items: Int64[Tensor, " kept"]
    frames: int = 84
    reverberation: float = 0.0

    def __post_init__(self) -> None:
        device = self.items.device
        self.samples = samples_of_view(self.frames)
        self.spectrogram = LogFilterbank("centred").to(device)
        self.ends = self.recordings.lengths[self.items].cumsum(0)
        room = Reverberation(p=self.reverberation)
        self.of_waves = Compose([Polarity(), Loudness(), NoiseAtSNR(), TimeMask(), room])
        self.equalizer, self.mask = Equalizer(), BandMask(one_draw=True)
        self.stretch = Stretch(self.frames, high=LONGEST)

    def __len__(self) -> int:
        """Snippets there are, one beside the other."""
        return int(self.ends[-1]) * FPS // (RATE * self.frames) if len(self.ends) else 0

    def __call__(self, draws: Draws) -> Float[Tensor, "2 batch 1 bands frames"]:
        """Two views of snippets that are drawn, as many as `draws` has rows."""
        place = (draws.uniform(0, 1).double() * self.ends[-1]).long()
        number = torch.searchsorted(self.ends, place, right=True).clamp(max=len(self.items) - 1)
        chosen = self.items[number]
        room = (self.recordings.lengths[chosen] - self.samples).clamp_min(0)
        first = (draws.uniform(0, 1).double() * room).long()
        farthest = int(_LATER * self.frames * CENTRED_HOP)
        later = (draws.uniform(0, 1) * draws.happens(0.5) * farthest).long()
        # Both views overlap: they are read at once.
        both = self.recordings.windows(chosen, first, self.samples + farthest, 0)[:, 0]
        rows = torch.arange(len(both), device=both.device)
        second = both.unfold(1, self.samples, 1)[rows, later]
        return torch.stack([self._view(w, draws) for w in (both[:, : self.samples], second)])

    def _view(self, waves: Tensor, draws: Draws) -> Tensor:
        waves = waves.float() / 32768
        magnitudes = self.spectrogram.magnitudes(self.of_waves(waves, draws))
        bands = self.spectrogram.bands(self.equalizer(magnitudes, draws))
        bands = self.stretch(bands.transpose(1, 2), draws).transpose(1, 2)
        return self.mask(compress(bands), draws)[:, None]
