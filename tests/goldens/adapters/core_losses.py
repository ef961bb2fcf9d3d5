"""The objectives of core.losses on their reference cases."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core import distributed as across
from core import losses
from core.losses.rows import Rows
from core.losses.simdino import coding_rate
from core.losses.tiled import tiled_logsumexp
from tests.core.gloo import run_gloo

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def _gradients(
    loss: Callable[..., Tensor], *arrays: np.ndarray | float
) -> tuple[Tensor, list[Tensor]]:
    """The loss at float64 leaves made of the arrays, and its gradient for each."""
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in arrays]
    value = loss(*leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves, allow_unused=True))


def _arrays(values: dict[str, Tensor | float]) -> Arrays:
    return {name: torch.as_tensor(value).detach().numpy() for name, value in values.items()}


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def contrastive(inputs: Arrays, params: Params) -> Arrays:
    """InfoNCE, SigLIP and the family of in-batch contrast."""
    raw_a, raw_b = inputs["a"], inputs["b"]
    unit_a, unit_b = _unit(raw_a), _unit(raw_b)
    a, b = torch.tensor(raw_a), torch.tensor(raw_b)
    label, queue = torch.tensor(inputs["label"]), torch.tensor(inputs["queue"])
    tau, tau_plus = params["temperature"], params["tau_plus"]
    out: dict[str, Tensor | float] = {}

    out["out_clip"], (out["grad_a_clip"], out["grad_scale_clip"]) = _gradients(
        lambda x, scale: losses.info_nce(x, torch.tensor(unit_b), 1 / scale, normalize=False),
        unit_a,
        params["logit_scale"],
    )
    out["out_siglip"], (out["grad_a_siglip"], out["grad_bias_siglip"]) = _gradients(
        lambda x, bias: losses.siglip(
            x, torch.tensor(unit_b), params["logit_scale"], bias, normalize=False
        ),
        unit_a,
        params["logit_bias"],
    )
    out["out_ntxent"], (out["grad_a_ntxent"],) = _gradients(
        lambda x: losses.nt_xent(x, b, tau), raw_a
    )
    out["out_dcl"], (out["grad_a_dcl"],) = _gradients(lambda x: losses.dcl(x, b, tau), raw_a)
    out["out_dclw"] = losses.dcl(a, b, tau, sigma=params["dclw_sigma"])
    out["out_debiased"] = losses.debiased(a, b, tau, tau_plus=tau_plus)
    out["out_hard_negative"], (out["grad_a_hard_negative"],) = _gradients(
        lambda x: losses.hard_negative(
            x,
            torch.tensor(unit_b),
            tau,
            tau_plus=tau_plus,
            beta=params["hard_beta"],
            normalize=False,
        ),
        unit_a,
    )

    moco = losses.MoCoLoss(queue.shape[1], len(queue), tau).double()
    moco.queue.copy_(queue)
    out["out_moco_queue"] = moco(a, b)
    out["out_mocov3"] = losses.moco_v3(a, b, tau)

    base = params["supcon_base_temperature"]
    views = torch.stack([a, b])
    out["out_supcon"] = losses.supcon(views, label, tau, base_temperature=base)
    out["out_supcon_one"] = losses.supcon(views, label, tau, base_temperature=base, anchors="first")

    sogclr = losses.GlobalContrastiveLoss(len(a), tau, gamma=params["sogclr_gamma"]).double()
    sogclr.table.temperature.fill_(tau)  # a float32 buffer has rounded it
    index = torch.arange(len(a))
    first = sogclr(a, b, index)
    second, (out["grad_a_sogclr"],) = _gradients(lambda x: sogclr(x, b, index), raw_a)
    out["out_sogclr"] = torch.stack([first, second])
    out["out_sogclr_u"] = sogclr.table.average
    return _arrays(out)


def non_contrastive(inputs: Arrays, params: Params) -> Arrays:
    """BYOL, SimSiam, Barlow Twins, VICReg."""
    a, b = torch.tensor(inputs["a"]), torch.tensor(inputs["b"])
    lambd, weights = params["barlow_lambda"], params["vicreg"]
    names = {"invariance_weight": "sim", "variance_weight": "var", "covariance_weight": "cov"}
    vicreg = {ours: weights[theirs] for ours, theirs in names.items()} | {"eps": weights["eps"]}
    out: dict[str, Tensor | float] = {}
    out["out_byol"], (out["grad_p_byol"],) = _gradients(lambda x: losses.byol(x, b), inputs["p"])
    out["out_simsiam"] = losses.simsiam(torch.tensor(inputs["p"]), b)
    out["out_barlow"], (out["grad_a_barlow"],) = _gradients(
        lambda x: losses.barlow_twins(x, b, lambd), inputs["a"]
    )
    out["out_barlow_scaled"] = 0.025 * losses.barlow_twins(a, b, lambd)
    out["out_vicreg"], (out["grad_a_vicreg"],) = _gradients(
        lambda x: losses.vicreg(x, b, **vicreg), inputs["a"]
    )
    vicreg["variance_weight"] *= 2
    out["out_vicreg_unhalved_variance"] = losses.vicreg(a, b, **vicreg)
    return _arrays(out)


def clustering_and_rate(inputs: Arrays, params: Params) -> Arrays:
    """Sinkhorn, SwAV, DeepCluster, DINO, iBOT, SimDINO, KoLeo."""
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    eps, iterations = params["sinkhorn_eps"], params["sinkhorn_iters"]
    out: dict[str, Tensor | float] = {}
    out["out_sinkhorn"] = torch.stack(
        [losses.sinkhorn(view, eps, iterations) for view in tensors["scores"][:2]]
    )
    out["out_swav"], (out["grad_scores_swav"],) = _gradients(
        lambda x: losses.swav(x, params["swav_temp"], epsilon=eps, iterations=iterations),
        inputs["scores"],
    )
    out["out_deepcluster"] = losses.deepcluster(
        tensors["outputs"], tensors["assign"], params["deepcluster_temp"]
    )

    about = params["dino"]
    prototypes = tensors["teacher_logits"].shape[1]
    teacher = tensors["teacher_logits"].unflatten(0, (2, -1))
    dino = losses.DINOLoss(prototypes, about["student_temp"], about["center_momentum"]).double()
    dino.centre.centre.fill_(about["center_start"])
    out["out_dino"], (out["grad_student_dino"],) = _gradients(
        lambda x: dino(x.unflatten(0, (2, -1)), teacher, about["teacher_temp"]),
        inputs["student_logits"],
    )
    out["out_dino_center"] = dino.centre.centre.clone()[None]
    out["out_dino_second_call"] = dino(
        tensors["student_logits"].unflatten(0, (2, -1)), teacher, about["teacher_temp"]
    )

    about = params["ibot"]
    ibot = losses.IBOTLoss(prototypes, about["student_temp"]).double()
    ibot.centre.centre.fill_(about["center"])
    out["out_ibot"] = ibot(
        tensors["student_masked"],
        tensors["teacher_masked"],
        tensors["mask"].bool(),
        about["teacher_temp"],
    )

    about = params["simdino"]
    student, teacher = tensors["student_feat"], tensors["teacher_feat"]
    spread = {"type0": student[:2], "type1": (student[:2] + teacher) / 2}
    for name, expanded in (("type0", "student"), ("type1", "mean")):
        out[f"out_simdino_{name}"], (out[f"grad_student_simdino_{name}"],) = _gradients(
            lambda x, expanded=expanded: losses.simdino(
                x,
                teacher,
                eps=about["eps"],
                expansion_weight=about["coeff"],
                expanded=expanded,
                normalize=False,
            ),
            inputs["student_feat"],
        )
        out[f"out_simdino_expansion_{name}"] = torch.stack(
            [coding_rate(z, about["eps"]) for z in spread[name]]
        ).mean()
    out["out_simdino_compression"] = -losses.simdino(
        student, teacher, expansion_weight=0.0, normalize=False
    )
    out["out_koleo"], (out["grad_a_koleo"],) = _gradients(losses.koleo, inputs["a"])
    return _arrays(out)


def masked_and_ranking(inputs: Arrays, params: Params) -> Arrays:
    """MAE, wav2vec 2.0, HuBERT, BPR."""
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    patches = losses.patchify(tensors["image"], params["patch"])
    removed, masked = tensors["mae_mask"], tensors["time_mask"].bool()
    context, quantized = tensors["context"], tensors["quantized"]
    out: dict[str, Tensor | float] = {}
    out["out_mae_plain"] = losses.mae(tensors["mae_pred"], patches, removed, normalize_target=False)
    out["out_mae_norm_pix"], (out["grad_pred_mae_norm_pix"],) = _gradients(
        lambda x: losses.mae(x, patches, removed), inputs["mae_pred"]
    )
    out["out_wav2vec2_contrastive"], (out["grad_context_wav2vec2"],) = _gradients(
        lambda x: losses.wav2vec2(
            x, quantized, masked, tensors["negative_index"], params["wav2vec2_temperature"]
        ),
        inputs["context"],
    )
    probabilities = tensors["code_probs"].unflatten(0, masked.shape)
    out["out_wav2vec2_perplexity"] = losses.code_perplexity(probabilities, masked)
    out["out_wav2vec2_diversity"] = losses.code_diversity(probabilities, masked)
    for name, frames in (("masked", masked), ("unmasked", ~masked)):
        out[f"out_hubert_{name}"] = losses.hubert(
            context,
            tensors["label_embedding"],
            tensors["hubert_label"],
            frames,
            params["hubert_logit_temp"],
        )
    out["out_bpr"] = losses.bpr(tensors["pos_score"], tensors["neg_score"])
    return _arrays(out)


def chunked_infonce(inputs: Arrays, params: Params) -> Arrays:
    """InfoNCE in float32, in tiles of every size asked for; all must agree with each other too."""
    results = []
    for tile in params["tile_sizes_to_try"]:
        u, v = (torch.tensor(inputs[name], requires_grad=True) for name in ("u", "v"))
        scale = params["logit_scale"]
        loss = losses.info_nce(u, v, 1 / scale, normalize=False, tile=tile)
        loss.backward()
        row_sums, column_sums = tiled_logsumexp(
            (u * scale).detach(), v.detach(), tile, Rows.of(u, "none").excluded
        )
        results.append(
            {
                "out_loss": loss,
                "out_row_lse": row_sums,
                "out_col_lse": column_sums,
                "grad_u": u.grad,
                "grad_v": v.grad,
            }
        )
    for other in results[1:]:
        for name, value in results[0].items():
            torch.testing.assert_close(other[name], value, rtol=2e-5, atol=2e-5)
    return _arrays(results[-1])


def distributed(inputs: Arrays, params: Params) -> Arrays:
    """The forms of the CLIP loss over several processes, and SigLIP around the ring."""
    scale = params["logit_scale"]
    out: dict[str, Tensor | float] = {}
    (
        out["out_full_loss"],
        (
            out["out_full_grad_a"],
            out["out_full_grad_b"],
            out["out_full_grad_scale"],
        ),
    ) = _gradients(
        lambda a, b, s: losses.info_nce(a, b, 1 / s, normalize=False),
        inputs["a"],
        inputs["b"],
        scale,
    )
    out["out_full_siglip_loss"], (out["out_full_siglip_grad_a"], out["out_full_siglip_grad_b"]) = (
        _gradients(
            lambda a, b: losses.siglip(a, b, scale, params["logit_bias"], normalize=False),
            inputs["a"],
            inputs["b"],
        )
    )
    ranks = run_gloo(params["world_size"], _forms_of_a_rank, inputs["a"], inputs["b"], params)
    for form in ranks[0]:
        values = [rank[form] for rank in ranks]
        out[f"out_loss_per_rank_{form}"] = torch.stack([loss for loss, _ in values])
        grads = [grad for _, grad in values]
        out[f"out_local_grad_a_{form}"] = torch.cat([grad[0] for grad in grads])
        out[f"out_local_grad_b_{form}"] = torch.cat([grad[1] for grad in grads])
        out[f"out_scale_grad_per_rank_{form}"] = torch.stack([grad[2] for grad in grads])
    return _arrays(out)


def _forms_of_a_rank(
    a: np.ndarray, b: np.ndarray, params: Params
) -> dict[str, tuple[Tensor, list[Tensor]]]:
    size = params["batch_per_rank"]
    own = slice(across.rank() * size, (across.rank() + 1) * size)

    def gathered(x: Tensor) -> Tensor:
        """All rows without gradient, save that of this rank's own slice."""
        x_all = across.all_gather(x.detach())
        return torch.cat([x_all[: own.start], x, x_all[own.stop :]])

    def full_logits(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return losses.info_nce(a, b, 1 / scale, normalize=False, gather="none")

    def without_key_gradients(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        target = torch.arange(own.start, own.stop)
        a_all, b_all = across.all_gather(a.detach()), across.all_gather(b.detach())
        one_way = F.cross_entropy(scale * a @ b_all.T, target)
        return (one_way + F.cross_entropy(scale * b @ a_all.T, target)) / 2

    forms: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "local0_grad0": lambda a, b, s: full_logits(gathered(a), gathered(b), s),
        "local0_grad1": lambda a, b, s: full_logits(across.all_gather(a), across.all_gather(b), s),
        "local1_grad0": without_key_gradients,
        "local1_grad1": lambda a, b, s: losses.info_nce(a, b, 1 / s, normalize=False),
        "siglip_bidir": lambda a, b, s: losses.siglip(
            a, b, s, params["logit_bias"], normalize=False, gather="ring"
        ),
    }
    results = {
        name: _gradients(form, a[own], b[own], params["logit_scale"])
        for name, form in forms.items()
    }

    def one_way_each(scale: Tensor) -> Tensor:
        x, y = torch.tensor(a[own]), torch.tensor(b[own])
        there = losses.info_nce(x, y, 1 / scale, normalize=False, symmetric=False)
        return (there + losses.info_nce(y, x, 1 / scale, normalize=False, symmetric=False)) / 2

    # The reference computes the matrix twice, once for each direction. Ours computes it once, and
    # a rank then has another share of the gradient of the scale; the mean over ranks is the same.
    results["local1_grad1"][1][2] = _gradients(one_way_each, params["logit_scale"])[1][0]
    return results
