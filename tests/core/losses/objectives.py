"""Every objective as a function of two views of the same samples, so that one test fits all."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from core import losses
from core.distributed import all_gather

DIM, FRAMES, CLASSES = 8, 4, 3


@dataclass(frozen=True)
class Batch:
    """Inputs and side information, one row a sample."""

    x: Tensor  # (B, DIM) what an encoder gets for the first view
    y: Tensor  # (B, DIM) and for the second
    label: Tensor  # (B,)
    index: Tensor  # (B,)
    partner: Tensor  # (B,) index of another sample, or of the same
    valid: Tensor  # (B,) bool
    mask: Tensor  # (B, FRAMES) bool
    codes: Tensor  # (B, FRAMES)
    distractors: Tensor  # (B, FRAMES, 3) frames of the same sample

    def rows(self, chosen: slice | Tensor) -> "Batch":
        return Batch(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def make_batch(size: int = 6, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(size, DIM, generator=g, dtype=torch.float64)
    mask = torch.rand(size, FRAMES, generator=g) < 0.6
    mask[:, 0] = True
    mask[0] = False
    index = torch.randperm(50, generator=g)[:size]
    swap = torch.arange(size)
    swap[[0, 1, -2, -1]] = swap[[1, 0, -1, -2]]
    return Batch(
        x=x,
        y=x + torch.randn(size, DIM, generator=g, dtype=torch.float64),
        label=torch.arange(size) % 3,
        index=index,
        partner=index[swap],
        valid=torch.arange(size) % 4 != 1,
        mask=mask,
        codes=torch.randint(0, CLASSES, (size, FRAMES), generator=g),
        distractors=torch.randint(0, FRAMES, (size, FRAMES, 3), generator=g),
    )


def _tokens(x: Tensor) -> Tensor:
    return x.unflatten(1, (FRAMES, -1))


def _two(x: Tensor) -> Tensor:
    """Two different views made of one, view-major."""
    return torch.stack([x, x.roll(1, dims=1)])


def _fixed(rows: int, columns: int) -> Tensor:
    start = torch.randn(rows, columns, generator=torch.Generator().manual_seed(5))
    return start.double()


def _moco(a: Tensor, b: Tensor, batch: Batch, **options: Any) -> Tensor:
    return losses.MoCoLoss(DIM, 12, temperature=0.2)(a, b, **options)


def _wav2vec2(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    first = torch.arange(len(a))[:, None, None] * FRAMES
    return losses.wav2vec2(_tokens(a), _tokens(b), batch.mask, first + batch.distractors)


def _diversity(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    return losses.code_diversity(_tokens(a)[:, :, None].softmax(-1), batch.mask)


def _hubert(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    codes = _fixed(CLASSES, DIM // FRAMES).to(a.dtype)
    penalty = losses.feature_penalty(_tokens(a), batch.mask)
    return losses.hubert(_tokens(a), codes, batch.codes, batch.mask) + penalty


def _hubert_codebooks(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    codes = torch.stack([_fixed(CLASSES, DIM // FRAMES)] * 2).to(a.dtype)
    codes[1] *= torch.arange(1, 1 + codes.shape[2])
    states, labels = torch.stack([_tokens(a)] * 2, 2), torch.stack([batch.codes] * 2, 2)
    return losses.hubert_codebooks(states, codes, labels, batch.mask).sum()


def _deepcluster(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    clusters = batch.label.where(batch.valid, -1)
    return losses.deepcluster(_two(a)[None], clusters[None])


def _dino(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    dino = losses.DINOLoss(DIM)
    # The second call uses the centre that the first has moved.
    return dino(_two(a), _two(b)) + dino(_two(a), _two(b), 0.05)


def _dino_sinkhorn(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    return losses.DINOLoss(DIM, balance="sinkhorn")(_two(a), _two(b))


def _ibot(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    ibot = losses.IBOTLoss(DIM // FRAMES)
    student, teacher = _tokens(a)[batch.mask], _tokens(b)[batch.mask]
    return ibot(student, teacher, batch.mask) + ibot(student, teacher, batch.mask, 0.05)


def _swav(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    return losses.swav(torch.stack([a, b]), 0.5, assigned_views=[1], epsilon=0.5)


def _sogclr(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    loss = losses.GlobalContrastiveLoss(50, 0.5, individual=True)
    return loss(a, b, batch.index) + loss(a, b, batch.index)


def _bimodal(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    loss = losses.BimodalGlobalContrastiveLoss((50, 60), 0.5, individual=True)
    numbers = batch.index, batch.index + 7
    return loss(a, b, *numbers) + loss(a, b, *numbers)


def _views(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b, a.roll(1, dims=1)])


def _many(loss: Callable[..., Tensor]) -> "Objective":
    def objective(a: Tensor, b: Tensor, batch: Batch, valid: Tensor | None = None) -> Tensor:
        every_view = None if valid is None else valid.expand(3, -1)
        return loss(_views(a, b), valid=every_view)

    return objective


def _symile(a: Tensor, b: Tensor, batch: Batch, **options: Any) -> Tensor:
    modalities = [a, b, a.roll(1, dims=1)]
    return losses.symile(modalities, 0.5, negatives="all", tile=2, **options)


def _m3co(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    here = (batch.partner[:, None] == batch.index).to(torch.uint8)
    partner = here.argmax(1) if len(a) else batch.partner
    return losses.m3co(a, b, partner, (batch.label + 1) / 4, 0.3)


def _log_probability(batch: Batch) -> Tensor:
    return -(batch.index + 1.0).log()


def _local_contrast(a: Tensor, b: Tensor, batch: Batch, **options: Any) -> Tensor:
    # A few scores at a time.
    return losses.local_contrast(_tokens(a), _tokens(b), batch.mask, held=40, **options)


def _score_contrast(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    scores = (a[:, None] * all_gather(b)).sum(-1) / 0.3
    return losses.score_contrast(scores, label_smoothing=0.1)


def _masked_language(a: Tensor, b: Tensor, batch: Batch) -> Tensor:
    codes = _fixed(DIM // FRAMES, CLASSES)

    def head(x: Tensor) -> Tensor:
        return (x[..., None] * codes.to(x.dtype)).sum(-2)

    return losses.masked_language(_tokens(a), batch.codes, batch.mask, head)


Objective = Callable[..., Tensor]

# (a, b, batch, **options) -> loss; these take the options `valid` (and `gather`, where they say).
MASKABLE: dict[str, Objective] = {
    "info_nce": lambda a, b, batch, **o: losses.info_nce(a, b, 0.3, **o),
    "info_nce_one_way": lambda a, b, batch, **o: losses.info_nce(a, b, 0.3, symmetric=False, **o),
    "info_nce_tiled": lambda a, b, batch, **o: losses.info_nce(a, b, 0.3, tile=2, **o),
    "info_nce_ring": lambda a, b, batch, **o: losses.info_nce(a, b, 0.3, gather="ring", **o),
    "info_nce_ring_tiled": lambda a, b, batch, **o: losses.info_nce(
        a, b, 0.3, gather="ring", tile=2, **o
    ),
    "siglip": lambda a, b, batch, **o: losses.siglip(a, b, 4.0, -1.0, **o),
    "siglip_ring": lambda a, b, batch, **o: losses.siglip(a, b, 4.0, -1.0, gather="ring", **o),
    "nt_xent": lambda a, b, batch, **o: losses.nt_xent(a, b, **o),
    "moco": _moco,
    "moco_v3": lambda a, b, batch, **o: losses.moco_v3(a, b, **o),
    "dcl": lambda a, b, batch, **o: losses.dcl(a, b, 0.3, **o),
    "dclw": lambda a, b, batch, **o: losses.dcl(a, b, 0.3, sigma=0.5, **o),
    "debiased": lambda a, b, batch, **o: losses.debiased(a, b, **o),
    "hard_negative": lambda a, b, batch, **o: losses.hard_negative(a, b, **o),
    "hard_negative_cross": lambda a, b, batch, **o: losses.hard_negative(
        a, b, negatives="cross", **o
    ),
    "cmkm": lambda a, b, batch, **o: losses.cmkm(a, b, batch.x, batch.y, 0.3, **o),
    "supcon": lambda a, b, batch, **o: losses.supcon(torch.stack([a, b]), batch.label, 0.3, **o),
    "supcon_first": lambda a, b, batch, **o: losses.supcon(
        torch.stack([a, b]), batch.label, 0.3, anchors="first", **o
    ),
    "byol": lambda a, b, batch, **o: losses.byol(a, b, **o),
    "simsiam": lambda a, b, batch, **o: losses.simsiam(a, b, **o),
    "barlow_twins": lambda a, b, batch, **o: losses.barlow_twins(a, b, **o),
    "vicreg": lambda a, b, batch, **o: losses.vicreg(a, b, **o),
    "koleo": lambda a, b, batch, **o: losses.koleo(a, **o),
    "bpr": lambda a, b, batch, **o: losses.bpr(a.sum(1), b.sum(1), **o),
    "mv_info_nce": _many(losses.mv_info_nce),
    "mv_info_nce_cross_view": _many(
        lambda views, **o: losses.mv_info_nce(views, denominator="cross_view", **o)
    ),
    "mv_dhel": _many(losses.mv_dhel),
    "symile": _symile,
    "local_contrast": _local_contrast,
}

ALL: dict[str, Objective] = MASKABLE | {
    "sogclr": _sogclr,
    "sogclr_bimodal": _bimodal,
    "swav": _swav,
    "deepcluster": _deepcluster,
    "dino": _dino,
    "dino_sinkhorn": _dino_sinkhorn,
    "ibot": _ibot,
    "simdino": lambda a, b, batch: losses.simdino(_two(a), _two(b)),
    "simdino_mean": lambda a, b, batch: losses.simdino(_two(a), _two(b), expanded="mean"),
    "mae": lambda a, b, batch: losses.mae(_tokens(a), _tokens(b.detach()), batch.mask),
    "wav2vec2": _wav2vec2,
    "code_diversity": _diversity,
    "hubert": _hubert,
    "hubert_codebooks": _hubert_codebooks,
    "poly_view": lambda a, b, batch: losses.poly_view(_views(a, b)),
    "average_view": lambda a, b, batch: losses.average_view(_views(a, b)),
    "m3co": _m3co,
    "soft_clip": lambda a, b, batch: losses.soft_clip(a, b),
    "in_batch_softmax": lambda a, b, batch: losses.in_batch_softmax(
        a, b, _log_probability(batch), 0.3
    ),
    "in_batch_softmax_tiled": lambda a, b, batch: losses.in_batch_softmax(
        a, b, _log_probability(batch), 0.3, ids=batch.label, tile=2
    ),
    "score_contrast": _score_contrast,
    "masked_language": _masked_language,
    "hinge_ranking": lambda a, b, batch: losses.hinge_ranking(a, b),
    "spread_out": lambda a, b, batch: losses.spread_out(a),
    "embedding_penalty": lambda a, b, batch: losses.embedding_penalty(a, b),
}

# Their gradient is not that of their value: something in them is held still on purpose.
SURROGATES = {"dclw", "sogclr", "sogclr_bimodal"}
