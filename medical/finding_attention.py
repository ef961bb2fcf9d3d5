"""Where the words of a report look in its volume, and whether a finding is there."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from medical.data.cases import Cases, Finding
from medical.data.report_tokens import WORD, ReportTokenizer, ReportTokens, split_sentences
from medical.data.volume_pictures import Overlay, draw_overlays
from medical.systems.velvet_med import VELVETMed

_ROWS = 16  # cases at a time


@dataclass(frozen=True)
class Mention:
    """A finding and what names it.

    Attributes:
        row: of the case.
        finding: what and where it is.
        sentence: number of the first sentence that names kind and site, from 0.
        word: number of the word of its kind, from 0, in the order of word units.
    """

    row: int
    finding: Finding
    sentence: int
    word: int


def mentions(
    data: Cases, tokenizer: ReportTokenizer, tokens: ReportTokens, rows: Int64[Tensor, " n"]
) -> list[Mention]:
    """Findings of generated cases whose report names kind and site in one sentence."""
    found = []
    for row in rows.tolist():
        findings = data.findings[row]
        if not findings:
            continue
        sentences = [text.lower() for text in split_sentences(data.reports[row])]
        words = tokenizer.words(tokens.ids[row], tokens.kinds[row])
        of_sentence = tokens.types[row][tokens.kinds[row] == WORD].tolist()
        for finding in findings:
            kind, site = finding.kind.lower(), finding.site.lower()
            naming = (n for n, text in enumerate(sentences) if kind in text and site in text)
            sentence = next(naming, None)
            for number, (word, own) in enumerate(zip(words, of_sentence, strict=True)):
                if word == kind and sentence is not None and own == sentence + 1:
                    found.append(Mention(row, finding, sentence, number))
                    break
    return found


def attention_hits(
    system: VELVETMed,
    data: Cases,
    tokens: ReportTokens,
    mentioned: list[Mention],
    level: str,
) -> tuple[Float[np.ndarray, " mentions"], float]:
    """Whether the region that a finding's sentence or word attends to most is the finding's own.

    Returns:
        1 or 0 for each mention, and the share that a region drawn at random would hit.
    """
    hits, chance = [], 1.0
    for some in torch.arange(len(mentioned)).split(_ROWS):
        named = [mentioned[number] for number in some.tolist()]
        rows = torch.tensor([one.row for one in named], device=tokens.ids.device)
        batch = tokens.rows(rows) | {"volume": data.whole(rows)}
        weights = system.attention(batch, level)
        unit = torch.tensor([getattr(one, level) for one in named], device=rows.device)
        of_unit = weights[torch.arange(len(named), device=rows.device), unit]
        side, chance = of_unit.shape[-1], 1 / of_unit[0].numel()
        best = of_unit.flatten(1).argmax(1).cpu()
        at = torch.stack([best // side**2, best // side % side, best % side], 1)
        centre = torch.tensor([one.finding.centre for one in named])
        cell = (centre * side / data.size).long().clamp(0, side - 1)
        hits.append((at == cell).all(1).double())
    return torch.cat(hits).numpy(), chance


def draw_attention(
    system: VELVETMed,
    data: Cases,
    tokenizer: ReportTokenizer,
    tokens: ReportTokens,
    rows: Int64[Tensor, " n"],
    level: str,
    file: Path,
) -> None:
    """Writes slices with the attention of a word or a sentence of each report laid over.

    Of generated cases the word is that of a finding and the slices go through it; of others it is
    the one that attends most sharply, and the slices go through where it does.
    """
    known = {one.row: one for one in reversed(mentions(data, tokenizer, tokens, rows))}
    chosen = list(known) or rows[:4].tolist()
    shown = []
    for row in chosen[:4]:
        at = torch.tensor([row], device=rows.device)
        volume = data.whole(at)
        weights = system.attention(tokens.rows(at) | {"volume": volume}, level)[0]
        mention = known.get(row)
        number = getattr(mention, level) if mention else int(weights.flatten(1).amax(1).argmax())
        texts = split_sentences(data.reports[row])
        if level == "word":
            texts = tokenizer.words(tokens.ids[row], tokens.kinds[row])
        if number >= len(texts):
            continue
        weight = weights[number]
        spread = (weight.max() - weight.min()).clamp(min=1e-12)
        heat = (weight - weight.min()) / spread
        scale = data.size // heat.shape[-1]
        heat = heat.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        heat = heat.repeat_interleave(scale, 2)
        peak = np.unravel_index(int(heat.argmax()), heat.shape)
        centre = mention.finding.centre if mention else tuple(p + scale // 2 for p in peak)
        sharpest = float(weight.max()) * weight.numel()
        title = f"{data.ids[row]}: {texts[number]}"
        if mention:
            title += f" ({mention.finding.site}; outlined)"
        title += f"; at most {sharpest:.2f} times even attention"
        x, y, z = (min(max(int(place), 0), data.size - 1) for place in centre)
        values = volume[0, 0].cpu().numpy()
        truth = _ball(data.size, (x, y, z)) if mention else None
        shown.append(
            Overlay(title, values, (1.0, 1.0, 1.0), (x, y, z), truth=truth, heat=heat.cpu().numpy())
        )
    if shown:
        draw_overlays(shown, file)


def _ball(size: int, centre: tuple[int, int, int]) -> Int[np.ndarray, "size size size"]:
    """1 around a voxel, 0 elsewhere."""
    place = np.indices((size,) * 3)
    away = sum((place[axis] - centre[axis]) ** 2 for axis in range(3))
    return (away <= (0.06 * size) ** 2).astype(int)
