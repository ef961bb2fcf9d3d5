"""Reference cases of VELVET-Med."""

from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from core.losses import local_attention, local_similarity, nt_xent, score_contrast
from medical.data.report_tokens import PADDING, REPORT, SENTENCE, WORD
from medical.systems import tribert

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def hierarchical_contrast(inputs: Arrays, params: Params) -> Arrays:
    """Scores, attention and loss of one level, computed one text at a time."""
    vision = torch.tensor(inputs["vision"], requires_grad=True)
    text = torch.tensor(inputs["text"], requires_grad=True)
    exists = torch.arange(text.shape[1]) < torch.tensor(inputs["lengths"])[:, None]
    voxels, sharpness = vision.flatten(1, 3), params["temp1"]
    similarity = local_similarity(
        voxels,
        text,
        exists,
        sharpness=sharpness,
        part_scale=params["temp2"],
        scale=params["temp3"],
        held=1,
    )
    loss = score_contrast(similarity)
    loss.backward()
    attention = local_attention(voxels, text, exists, sharpness=sharpness)
    return {
        "out_similarity": similarity.detach().numpy(),
        "out_attention": attention.detach().unflatten(-1, vision.shape[1:4]).numpy(),
        "out_loss": loss.detach().numpy(),
        "grad_vision": vision.grad.numpy(),
        "grad_text": text.grad.numpy(),
    }


def report_and_volume_contrast(inputs: Arrays, params: Params) -> Arrays:
    """Report contrast with its temperature, and the contrast of two views of volumes."""
    assert params["alpha_i2t"] == 0.5  # both directions alike, as in the objective
    a = torch.tensor(inputs["a"], requires_grad=True)
    b = torch.tensor(inputs["b"])
    temperature = torch.tensor(
        params["report_temperature"], dtype=torch.float64, requires_grad=True
    )
    cosines = normalize(a, dim=1) @ normalize(b, dim=1).T
    report = score_contrast(cosines / temperature, label_smoothing=params["label_smoothing"])
    views = nt_xent(a, b, params["ntxent_temperature"])
    grad_a, grad_temperature = torch.autograd.grad(report, (a, temperature))
    return {
        "out_report_itc": report.detach().numpy(),
        "grad_report_itc_a": grad_a.numpy(),
        "grad_report_itc_temperature": grad_temperature.numpy(),
        "out_volume_ntxent": views.detach().numpy(),
        "grad_volume_ntxent_a": torch.autograd.grad(views, a)[0].numpy(),
    }


def _kinds(types: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Kinds of tokens where types alone are known: a sentence begins where the type grows."""
    kinds = torch.full_like(types, WORD)
    kinds[:, 2:][types[:, 2:] > types[:, 1:-1]] = SENTENCE
    kinds[:, 1] = SENTENCE
    kinds[:, 0] = REPORT
    return kinds.where(real, PADDING)


def sentence_mask(inputs: Arrays, params: Params) -> Arrays:
    """The mask as intended, and with the slip of the authors' code at reports without padding.

    There the last two sentences are one, whose only token of a sentence is the first.
    """
    types = torch.tensor(inputs["token_type_ids"])
    kinds = _kinds(types, torch.tensor(inputs["attention_mask"]).bool())
    last = (types == types.max(1, keepdim=True).values) & (types > 1)
    joined = last & (kinds[:, -1:] != PADDING)
    released = tribert.sentence_mask(
        types - joined.long(), kinds.masked_fill(joined & (kinds == SENTENCE), WORD)
    )
    return {
        "out_mask": tribert.sentence_mask(types, kinds).long().numpy(),
        "out_mask_released_code": released.long().numpy(),
    }


def text_units(inputs: Arrays, params: Params) -> Arrays:
    """Report, sentences and words, with their counts."""
    layers = params["layers_summed"]
    states = torch.tensor(inputs["hidden"])[:, -layers:].sum(1)
    kinds = torch.tensor(inputs["kind"])
    n_sentences = int((kinds == SENTENCE).sum(1).max())
    n_words = int((kinds == WORD).sum(1).max())
    units = tribert.text_units(states, kinds, n_sentences, n_words)
    return {
        "out_report": units.report.numpy(),
        "out_sentences": units.sentences.numpy(),
        "out_n_sentences": units.n_sentences.numpy(),
        "out_words": units.words.numpy(),
        "out_n_words": units.n_words.numpy(),
    }
