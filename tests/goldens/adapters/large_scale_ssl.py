"""Reference cases of self-supervised learning for large-scale item recommendation."""

import numpy as np
import torch

from core.evaluation.mutual_information import mutual_information
from core.losses import StreamingFrequency, in_batch_softmax, info_nce
from recsys.systems.large_scale_ssl import correlated_masks


def losses(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    given = {name: torch.from_numpy(array).requires_grad_() for name, array in inputs.items()}
    log_probability = given["sampling_prob"].detach().log()
    main = in_batch_softmax(given["query"], given["item"], log_probability, params["tau"])
    ssl = info_nce(given["view_h"], given["view_g"], params["tau_ssl"], symmetric=False)
    (main + ssl).backward()
    gradients = {
        f"grad_{name}": given[name].grad.numpy() for name in ("query", "item", "view_h", "view_g")
    }
    return {"out_main": main.detach().numpy(), "out_ssl": ssl.detach().numpy()} | gradients


def correlated_mask(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    information = mutual_information(torch.from_numpy(inputs["features"]))
    masks = correlated_masks(information, params["n"])
    return {
        "out_mi": information.numpy(),
        "out_mask": masks[torch.from_numpy(inputs["seed_feature"])].long().numpy(),
    }


def streaming_frequency(inputs: dict[str, np.ndarray], params: dict) -> dict[str, np.ndarray]:
    frequency = StreamingFrequency(params["hash_size"], params["alpha"], debias=False).double()
    found = [frequency(ids) for ids in torch.from_numpy(inputs["item_ids"])]
    return {
        "out_prob": torch.stack(found).numpy(),
        "out_interval": frequency.interval[0].numpy(),
        "out_last": frequency.last[0].double().numpy(),
    }
