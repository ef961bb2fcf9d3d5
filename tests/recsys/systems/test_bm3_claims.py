"""What the paper claims, as far as minutes of training can show it."""

from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from core.checkpoints import load_system
from core.trainers import fit
from recsys.data.readers import load_interactions
from recsys.systems.bm3 import BM3
from recsys.task import TopKRecommendation
from tests.recsys.generated import built, generated

ADAM = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0, fused=True)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained_recall(folder, data, seed: int, *, arguments: dict, **budget) -> float:
    """Test recall@20 at the epoch with the best validation."""
    task = TopKRecommendation()
    seed_everything(seed, verbose=False)
    system = BM3.of(task.system_arguments(data), **arguments)
    (folder / "checkpoints").mkdir(parents=True)
    fitted = fit(
        system,
        data,
        task,
        folder,
        optimizer=ADAM,
        seed=seed,
        progress=False,
        precision="32-true",
        accelerator="cpu",
        **budget,
    )
    best = load_system(fitted.checkpoint)[0]
    return task.evaluate(best, data, "test").metrics["recall@20"]


@pytest.mark.claim
def test_modalities_help_and_training_beats_no_training(tmp_path):
    """On generated data; against LightGCN nothing is claimed, which is ahead there.

    Measured .335, .331 and .036: a narrow pass. On sparser generated data it does not hold at 100
    epochs (.1182 against .1187).
    """
    data = generated(n_users=1500, n_items=600)
    budget = {"batch_size_global": 512, "max_epochs": 100, "patience": 21}
    recall: dict[str, list[float]] = {"bm3": [], "no modalities": [], "untrained": []}
    for seed in range(3):
        for name, cl_weight in (("bm3", 2.0), ("no modalities", 0.0)):
            arguments = {"dim": 32, "cl_weight": cl_weight}
            folder = tmp_path / f"{name}-{seed}"
            recall[name].append(trained_recall(folder, data, seed, arguments=arguments, **budget))
        seed_everything(seed, verbose=False)
        untrained = built(BM3, data, dim=32)
        evaluation = TopKRecommendation().evaluate(untrained, data, "test")
        recall["untrained"].append(evaluation.metrics["recall@20"])
    means = {name: float(np.mean(values)) for name, values in recall.items()}
    print(recall)
    assert means["bm3"] > means["no modalities"]
    assert means["bm3"] > 5 * means["untrained"]


@pytest.mark.claim
@pytest.mark.real
def test_without_negatives_and_features_amazon_baby_is_ranked_well(real_data, tmp_path):
    """BM3 on interactions alone; published LightGCN reaches .0754, in many more epochs."""
    folder = real_data / "amazon" / "baby"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    recall = trained_recall(
        tmp_path,
        load_interactions(folder),
        seed=999,
        arguments={"dim": 64, "n_layers": 1, "dropout": 0.5, "reg_weight": 0.1},
        batch_size_global=2048,
        max_epochs=30,
    )
    print(recall)
    assert recall >= 0.072
