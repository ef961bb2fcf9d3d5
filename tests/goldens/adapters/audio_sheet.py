"""Audio-sheet retrieval on its reference cases."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from audio_music.data import log_filterbank as front_end
from audio_music.piece_identification import rank_of_piece, votes_for_pieces
from core.encoders.cca import CCALayer
from core.evaluation.retrieval import retrieval
from core.losses import hinge_ranking, nt_xent

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def _leaf(array: np.ndarray) -> Tensor:
    return torch.tensor(array, requires_grad=True)


def contrastive_and_ranking(inputs: Arrays, params: Params) -> Arrays:
    found: Arrays = {}
    losses = {
        "nt_xent": lambda a, b: nt_xent(a, b, params["temperature"]),
        "triplet": lambda a, b: hinge_ranking(a, b, params["margin"]),
    }
    for name, loss in losses.items():
        sheet, audio = _leaf(inputs["sheet_emb"]), _leaf(inputs["audio_emb"])
        value = loss(sheet, audio)
        value.backward()
        short = "nt" if name == "nt_xent" else name
        found[f"out_{name}"] = value.detach().numpy()
        found[f"grad_{short}_sheet"] = sheet.grad.numpy()
        found[f"grad_{short}_audio"] = audio.grad.numpy()
    return found


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    return normalize(a, dim=1) @ normalize(b, dim=1).T


def cca_layer(inputs: Arrays, params: Params) -> Arrays:
    assert params["r1"] == params["r2"]
    sheet, audio = _leaf(inputs["sheet_latent"]), _leaf(inputs["audio_latent"])
    layer = CCALayer(sheet.shape[1], params["r1"], params["rT"])
    projected = layer(sheet, audio)
    loss = hinge_ranking(*projected, params["margin"])
    loss.backward()
    layer.eval()
    new = layer(torch.tensor(inputs["new_sheet"]), torch.tensor(inputs["new_audio"]))
    return {
        "out_similarity": _cosines(*projected).detach().numpy(),
        "out_correlations": layer.correlations(sheet, audio).detach().numpy(),
        "out_triplet": loss.detach().numpy(),
        "out_eval_similarity": _cosines(*new).numpy(),
        "grad_sheet_latent": sheet.grad.numpy(),
        "grad_audio_latent": audio.grad.numpy(),
    }


def log_filterbank(inputs: Arrays, params: Params) -> Arrays:
    bank = front_end.log_filterbank(
        params["sample_rate"],
        params["n_fft"],
        bands_per_octave=params["bands_per_octave"],
        lowest=params["fmin"],
        highest=params["fmax"],
        reference=params["fref"],
    )
    rows, columns = np.nonzero(bank)
    bands = torch.from_numpy(inputs["magnitude"]) @ torch.from_numpy(bank).float()
    return {
        "out_rows": rows,
        "out_cols": columns,
        "out_values": bank[rows, columns].astype(np.float32),
        "out_log_spectrum": front_end.compress(bands).numpy(),
        "out_shape": np.array(bank.shape),
    }


def retrieval_metrics(inputs: Arrays, params: Params) -> Arrays:
    query, candidates = torch.tensor(inputs["query"]), torch.tensor(inputs["candidates"])
    piece, rows = torch.tensor(inputs["candidate_piece"]), torch.arange(len(query))
    found = retrieval(query, candidates, rows, rows, topk=params["k"])
    votes = votes_for_pieces(query, piece, candidates, piece, params["n_candidates"])
    recalls = [found.per_unit[f"r@{k}"].sum() for k in params["k"]]
    distance = 1 - (normalize(query, dim=1) * normalize(candidates, dim=1)).sum(1)
    return {
        "out_rank": np.rint(1 / found.per_unit["mrr"]).astype(np.int64),
        "out_mrr": np.array(found.metrics["mrr"]),
        "out_recall_counts": np.array(recalls).astype(np.int64),
        "out_median_rank": np.array(found.metrics["median_rank"]),
        "out_mean_match_distance": distance.mean().numpy(),
        "out_votes": votes.numpy(),
        "out_piece_rank_best_case": rank_of_piece(votes).numpy(),
    }
