"""What enhanced item graphs are for, on real interactions."""

from functools import partial

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor

from core.checkpoints import read_checkpoint
from core.encoders.neighbours import NeighbourGraph
from core.losses import bpr, embedding_penalty
from core.trainers import fit
from recsys.data.interactions import Interactions
from recsys.data.readers import load_interactions
from recsys.systems.item_graph import collaborative_graph, enhanced_graph, semantic_graph
from recsys.systems.lightgcn import LightGCN
from recsys.task import TopKRecommendation

ADAM = partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.0, fused=True)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class WithItemGraph(LightGCN):
    """LightGCN whose items add their neighbours' ID embeddings, and nothing else."""

    graph: NeighbourGraph

    def tables(self) -> dict[str, Tensor]:
        tables = super().tables()
        return tables | {
            "item": tables["item"] + self.graph @ self.embedding.weight[self.n_users :]
        }

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        tables = self.tables()
        user = tables["user"][batch["user"]]
        scores = [(user * tables["item"][batch[name]]).sum(1) for name in ("item", "negative")]
        rows = batch["user"], batch["item"] + self.n_users, batch["negative"] + self.n_users
        penalty = 0.5 * embedding_penalty(*(self.embedding(row) for row in rows))
        return {"loss": bpr(*scores) + self.reg_weight * penalty}


def trained_recall(folder, data: Interactions, graph: NeighbourGraph, seed: int) -> float:
    """Test recall@20 at the epoch with the best validation."""
    task = TopKRecommendation()
    seed_everything(seed, verbose=False)
    system = WithItemGraph.of(task.system_arguments(data), n_layers=2)
    # As the method has them: from larger ones it learns the training pairs by heart.
    torch.nn.init.xavier_uniform_(system.embedding.weight)
    system.graph = graph
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
        max_epochs=25,
    )
    system.load_state_dict(read_checkpoint(fitted.checkpoint)["state_dict"])
    return task.evaluate(system, data, "test").metrics["recall@20"]


@pytest.mark.claim
@pytest.mark.real
def test_collaborative_signals_mend_graphs_of_features_that_say_nothing(
    real_data, tmp_path, request
):
    """On Amazon Baby, random features alone and infused, mean of two seeds.

    Measured .0696 and .0705: the seeds 0 and 1 apart are a tie and 3 %. Of collaborative
    neighbours alone it is .0779 (seed 0). The second seed was added after the tie of the first was
    seen, so this guards the code; it is weak evidence for the claim.
    """
    if "claim" not in request.config.getoption("markexpr"):
        pytest.skip("four trainings, some six minutes: pytest -m claim")
    folder = real_data / "amazon" / "baby"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    data = load_interactions(folder)
    collaborative = collaborative_graph(data.train, data.n_users, data.n_items, 10)
    recall: dict[str, list[float]] = {"noise": [], "infused": []}
    for seed in (0, 1):
        features = torch.randn(data.n_items, 64, generator=torch.Generator().manual_seed(seed))
        semantic = semantic_graph(features, 10)
        graphs = {
            "noise": enhanced_graph(semantic, None, 0.0),
            "infused": enhanced_graph(semantic, collaborative, 0.5),
        }
        for name, graph in graphs.items():
            run = tmp_path / f"{name}-{seed}"
            recall[name].append(trained_recall(run, data, NeighbourGraph(*graph), seed))
    print(recall)
    assert min(recall["noise"]) > 0.06
    assert sum(recall["infused"]) > sum(recall["noise"])
