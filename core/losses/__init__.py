"""Objectives of self-supervised learning: one a file, exact on one process and on many.

Conventions of all of them: embeddings come raw, (B, D), and `normalize=True` brings them to unit
length; temperatures are divisors; computation is in float32 at least, whatever autocast says, and
float64 stays float64. Where a loss takes them: rows whose `valid` is False are neither anchors nor
candidates, rows of equal `ids` are no negatives of each other, and `gather` says whether the rows
of the other ranks are candidates. The scalar that a rank returns is its share: its mean over the
ranks is the loss of the whole batch, and DistributedDataParallel's mean of the gradients is the
gradient of the whole batch (see `core.distributed`).
"""

from core.losses.barlow_twins import barlow_twins
from core.losses.bpr import bpr, embedding_penalty
from core.losses.byol import byol
from core.losses.cmkm import cmkm
from core.losses.dcl import dcl
from core.losses.debiased import debiased
from core.losses.deepcluster import deepcluster, spherical_kmeans
from core.losses.dino import DINOLoss
from core.losses.distinct import distinct
from core.losses.gradient_cache import cached_backward
from core.losses.hard_negative import hard_negative
from core.losses.hinge_ranking import hinge_ranking
from core.losses.hubert import feature_penalty, hubert, hubert_codebooks
from core.losses.ibot import IBOTLoss
from core.losses.in_batch_softmax import in_batch_softmax
from core.losses.info_nce import info_nce
from core.losses.koleo import koleo
from core.losses.local_contrast import local_attention, local_contrast, local_similarity
from core.losses.logit_scale import LogitScale
from core.losses.mae import mae, patchify, random_masking
from core.losses.masked_language import mask_tokens, masked_language
from core.losses.mixup_contrastive import draw_mixup, m3co, mix, soft_clip
from core.losses.moco import MoCoLoss, moco_v3
from core.losses.multiview import average_view, mv_dhel, mv_info_nce, pairwise, poly_view
from core.losses.nt_xent import nt_xent
from core.losses.orthogonality import orthogonality
from core.losses.score_contrast import score_contrast
from core.losses.siglip import siglip
from core.losses.simdino import coding_rate, simdino
from core.losses.simsiam import simsiam
from core.losses.sinkhorn import sinkhorn
from core.losses.sogclr import BimodalGlobalContrastiveLoss, GlobalContrastiveLoss
from core.losses.spread_out import spread_out
from core.losses.streaming_frequency import StreamingFrequency
from core.losses.supcon import supcon
from core.losses.swav import swav
from core.losses.symile import multilinear_scores, pairwise_scores, symile
from core.losses.vicreg import vicreg
from core.losses.wav2vec2 import code_diversity, code_perplexity, sample_distractors, wav2vec2

__all__ = [
    "BimodalGlobalContrastiveLoss",
    "DINOLoss",
    "GlobalContrastiveLoss",
    "IBOTLoss",
    "LogitScale",
    "MoCoLoss",
    "StreamingFrequency",
    "average_view",
    "barlow_twins",
    "bpr",
    "byol",
    "cached_backward",
    "cmkm",
    "code_diversity",
    "code_perplexity",
    "coding_rate",
    "dcl",
    "debiased",
    "deepcluster",
    "distinct",
    "draw_mixup",
    "embedding_penalty",
    "feature_penalty",
    "hard_negative",
    "hinge_ranking",
    "hubert",
    "hubert_codebooks",
    "in_batch_softmax",
    "info_nce",
    "koleo",
    "local_attention",
    "local_contrast",
    "local_similarity",
    "m3co",
    "mae",
    "mask_tokens",
    "masked_language",
    "mix",
    "moco_v3",
    "multilinear_scores",
    "mv_dhel",
    "mv_info_nce",
    "nt_xent",
    "orthogonality",
    "pairwise",
    "pairwise_scores",
    "patchify",
    "poly_view",
    "random_masking",
    "sample_distractors",
    "score_contrast",
    "siglip",
    "simdino",
    "simsiam",
    "sinkhorn",
    "soft_clip",
    "spherical_kmeans",
    "spread_out",
    "supcon",
    "swav",
    "symile",
    "vicreg",
    "wav2vec2",
]
