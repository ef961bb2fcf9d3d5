"""What the paper claims, as far as a minute of training can show it."""

from functools import partial

import pytest
import torch
from lightning.pytorch import seed_everything

from core.checkpoints import load_system
from core.trainers import fit
from recsys.systems.lightgcn import LightGCN
from recsys.systems.rearm import REARM
from recsys.task import TopKRecommendation
from tests.recsys.generated import built, generated

REARM_ARGUMENTS = {
    "dim": 32,
    "n_layers": 3,
    "self_dropout": 0.4,
    "mutual_dropout": 0.4,
    "item_image_weight": 0.1,
    "user_neighbours": 20,
    "item_neighbours": 10,
    "cl_weight": 1e-3,
    "diff_weight": 1e-3,
}


def trained_recall(folder, data, system_class, arguments, max_epochs, weight_decay) -> float:
    """Test recall@20 at the epoch with the best validation."""
    task = TopKRecommendation()
    seed_everything(0, verbose=False)
    (folder / "checkpoints").mkdir(parents=True)
    fitted = fit(
        system_class.of(task.system_arguments(data), **arguments),
        data,
        task,
        folder,
        optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=weight_decay, fused=True),
        progress=False,
        precision="32-true",
        accelerator="cpu",
        batch_size_global=512,
        max_epochs=max_epochs,
        patience=21,
    )
    best = load_system(fitted.checkpoint)[0]
    return task.evaluate(best, data, "test").metrics["recall@20"]


@pytest.mark.claim
def test_it_beats_lightgcn_and_its_untrained_self(tmp_path):
    """On generated data; the graphs alone carry much of what the features say.

    The ablations differ by less than the seeds of one run do: `recsys compare rearm` is for them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = generated(n_users=1500, n_items=600)
    recall = {
        "rearm": trained_recall(tmp_path / "rearm", data, REARM, REARM_ARGUMENTS, 40, 5e-4),
        "lightgcn": trained_recall(tmp_path / "lightgcn", data, LightGCN, {"dim": 32}, 100, 0.0),
    }
    seed_everything(0, verbose=False)
    untrained = built(REARM, data, **REARM_ARGUMENTS)
    recall["untrained"] = (
        TopKRecommendation().evaluate(untrained, data, "test").metrics["recall@20"]
    )
    torch.set_num_threads(threads)
    print(recall)
    assert recall["rearm"] > 1.05 * recall["lightgcn"]
    assert recall["rearm"] > 1.25 * recall["untrained"]
    assert recall["untrained"] > 0.5 * recall["lightgcn"]
