"""Objectives of self-supervised learning: one a file, exact on one process and on many.

Conventions of all of them: embeddings come raw, (B, D), and `normalize=True` brings them to unit
length; temperatures are divisors; computation is in float32 at least, whatever autocast says, and
float64 stays float64; rows where `valid` is False are neither anchors nor candidates; `gather`
says whether the rows of the other ranks are candidates. The scalar that a rank returns is its
share: its mean over the ranks is the loss of the whole batch (see `core.distributed`).
"""

from core.losses.bpr import bpr, embedding_penalty

__all__ = ["bpr", "embedding_penalty"]
