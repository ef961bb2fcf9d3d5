"""Views of snippets of sound and of scores: batched on the device against one sample at a time.

    python -m benchmarks.audio_music_snippets [SNIPPETS]

The peers make the same kinds of views with torchaudio (filters, STFT, phase vocoder) and
torchvision (affine, elastic, blur), sample by sample as a data loader's worker does, each with the
same probabilities; their draws are their own. Then a step of contrastive pre-training of each
encoder at its published size, views included.
"""

import random
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from audio_music.data.lines import Lines
from audio_music.data.log_filterbank import CENTRED_HOP, FRAME, RATE, log_filterbank
from audio_music.data.snippet_views import AudioViews, SheetViews
from audio_music.data.snippets import LONGEST, SHEET_MARGIN, STRIP, samples_of_view
from audio_music.systems.audio_sheet import SnippetEncoder
from audio_music.systems.audio_sheet_pretraining import ViewProjection
from benchmarks.race import interleaved, median_and_spread, paired_ratio, peer
from core.augment.draws import Draws
from core.losses import nt_xent

REPEATS, FRAMES = 3, 84
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Prints snippets a second of both modalities, and seconds of a step."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    views = race_views(n, REPEATS)
    for name, shape in (("audio", (1, 92, FRAMES)), ("sheet", (1, 80, 100))):
        encoder = SnippetEncoder(shape)
        model = ViewProjection(encoder, encoder.dim).to(DEVICE)
        times = interleaved({"step": lambda m=model, v=views[name]: _step(m, v, n)}, REPEATS)
        print(f"{name}: a step of {n} snippets in {median_and_spread(times['step'])} s", flush=True)


def race_views(
    n: int, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Callable[[Draws], Tensor]]:
    """Prints how fast two views of n snippets are made; modality -> what makes them."""
    generator = np.random.default_rng(0)
    waves = generator.normal(0, 3000, (1, 60 * RATE)).astype(np.int16)
    scores = generator.integers(0, 255, (STRIP, 6000)).astype(np.uint8)
    items = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    sound = Lines.of([waves], torch.int16, 2 * samples_of_view(FRAMES)).to(DEVICE)
    paper = Lines.of([scores], torch.uint8, SHEET_MARGIN).to(DEVICE)
    views = {"audio": AudioViews(sound, items, FRAMES), "sheet": SheetViews(paper, items)}
    peers = {"audio": _audio_peer(waves[0]), "sheet": _sheet_peer(scores)}
    for name, made in views.items():
        works: dict[str, Callable[[], object]] = {"batched": lambda made=made: _synced(made, n)}
        if peers[name] is not None:
            works["one by one"] = lambda name=name: [peers[name]() for _ in range(2 * n)]
        for work in works.values():
            work()
        times = interleaved(works, repeats, clock)
        said = f"{name}: 2 x {n} views in {median_and_spread(times['batched'])} s"
        if "one by one" in times:
            ratio = paired_ratio(times["one by one"], times["batched"])
            said += f", one by one {median_and_spread(times['one by one'])} s: {ratio} times"
        print(said, flush=True)
    return views


def _draws(n: int) -> Draws:
    return Draws(0, n, slice(0, n), DEVICE)


def _synced(views: Callable[[Draws], Tensor], n: int) -> Tensor:
    made = views(_draws(n))
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return made


def _step(model: ViewProjection, views: Callable[[Draws], Tensor], n: int) -> None:
    first, second = (model(view) for view in views(_draws(n)))
    model.zero_grad()
    nt_xent(first, second, 0.5).backward()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _audio_peer(wave: np.ndarray) -> Callable[[], Tensor] | None:
    audio = peer("torchaudio")
    if audio is None:
        return None
    functional, transforms = audio.functional, audio.transforms
    spectrogram = transforms.Spectrogram(FRAME, hop_length=CENTRED_HOP, power=None)
    stretch = transforms.TimeStretch(CENTRED_HOP, FRAME // 2 + 1)
    mask = transforms.FrequencyMasking(int(0.2 * 92))
    bank = torch.from_numpy(log_filterbank()).float().T
    centres = np.geomspace(60, 8000, 7)

    def view() -> Tensor:
        rate = random.uniform(0.5, LONGEST) if random.random() < 0.4 else 1.0
        n = int((FRAMES * max(rate, 1.0) + 1) * CENTRED_HOP)
        start = random.randrange(len(wave) - n)
        x = torch.from_numpy(wave[start : start + n]).float()[None] / 32768
        x = -x if random.random() < 0.5 else x
        x = functional.gain(x, random.uniform(-12, 0)) if random.random() < 0.5 else x
        if random.random() < 0.4:
            noise = torch.randn_like(x)
            x = functional.add_noise(x, noise, torch.tensor([random.uniform(5, 40)]))
        if random.random() < 0.5:
            length = int(n * random.uniform(0.01, 0.2))
            first = random.randrange(n - length)
            x[:, first : first + length] = 0
        if random.random() < 0.3:
            for centre in centres:
                x = functional.equalizer_biquad(x, RATE, float(centre), random.uniform(-12, 12))
        spectrum = spectrogram(x)
        spectrum = stretch(spectrum, rate) if rate != 1.0 else spectrum
        first = max(0, (spectrum.shape[2] - FRAMES) // 2)
        bands = torch.log10(1 + bank @ spectrum.abs()[:, :, first : first + FRAMES])
        return mask(bands) if random.random() < 0.35 else bands

    return view


def _sheet_peer(score: np.ndarray) -> Callable[[], Tensor] | None:
    vision = peer("torchvision.transforms.v2")
    if vision is None:
        return None
    affine = vision.RandomAffine(4, (0.2, 0.07), (0.9, 1.1), fill=1.0)
    small, large = (vision.ElasticTransform(a, s, fill=1.0) for a, s in ((20.0, 3.0), (60.0, 8.0)))
    blur = vision.GaussianBlur(9, (0.3, 1.0))
    page = torch.from_numpy(score).float()[None] / 255

    def view() -> Tensor:
        start = random.randrange(page.shape[2] - SHEET_MARGIN)
        x = torch.nn.functional.avg_pool2d(page[:, :, start : start + SHEET_MARGIN], 2)
        x = affine(x)
        for bend in (small, large):
            x = bend(x) if random.random() < 0.2 else x
        x = vision.functional.center_crop(x, [80, 100])
        x = x + 0.1 * torch.randn_like(x) if random.random() < 0.25 else x
        return blur(x) if random.random() < 0.25 else x

    return view


if __name__ == "__main__":
    main()
