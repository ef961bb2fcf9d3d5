import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from recsys.data.interactions import Interactions
from recsys.systems.bm3 import BM3
from tests.recsys.generated import batch_of, built, generated

TERMS = {"loss", "reconstruction", "inter_modality", "intra_modality", "penalty"}


@pytest.fixture(scope="module")
def data() -> Interactions:
    return generated()


@pytest.fixture
def kept_masks(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """The masks that `objective` hands to `loss`."""
    masks: list[dict[str, torch.Tensor]] = []
    loss = BM3.loss

    def recording(self, users, items, keep):
        masks.append(keep)
        return loss(self, users, items, keep)

    monkeypatch.setattr(BM3, "loss", recording)
    return masks


def test_defaults_are_the_papers(data):
    system = built(BM3, data)
    chosen = (system.dim, system.n_layers, system.dropout, system.reg_weight, system.cl_weight)
    assert chosen == (64, 1, 0.5, 0.1, 2.0)
    for name, table in data.features.items():
        assert torch.equal(system.features[name].weight, table)
        assert system.features[name].weight.requires_grad
        bound = np.sqrt(2 / (table.shape[1] + 64))
        assert system.project[name].weight.std().item() == pytest.approx(bound, rel=0.1)
    ids = system.user_embedding.weight
    limit = np.sqrt(6 / (data.n_users + 64))
    assert 0.95 * limit < ids.abs().max().item() <= limit


def test_online_view_is_the_mean_of_layers_and_items_add_their_embedding(data):
    system = built(BM3, data, dim=6, n_layers=2)
    n_nodes = data.n_users + data.n_items
    dense = torch.zeros(n_nodes, n_nodes, dtype=torch.float64)
    users, items = data.train[0], data.train[1] + data.n_users
    dense[users, items] = dense[items, users] = 1
    root = (dense.sum(1) + 1e-7).rsqrt()
    dense = root[:, None] * dense * root
    ids = torch.cat([system.user_embedding.weight, system.item_embedding.weight]).double()
    expected = (ids + dense @ ids + dense @ dense @ ids) / 3
    user, item = system.online()
    torch.testing.assert_close(user.double(), expected[: data.n_users], atol=1e-6, rtol=1e-5)
    residual = expected[data.n_users :] + system.item_embedding.weight
    torch.testing.assert_close(item.double(), residual, atol=1e-6, rtol=1e-5)


def test_a_node_that_is_twice_in_a_batch_has_one_mask(data, kept_masks):
    system = built(BM3, data, dim=64)
    batch = {"user": torch.tensor([3, 4, 3, 5, 3]), "item": torch.tensor([9, 8, 7, 9, 9])}
    system.objective(batch)
    (keep,) = kept_masks
    assert set(keep) == {"user", "item", "image", "text"}
    for view, mask in keep.items():
        ids = batch["user" if view == "user" else "item"]
        for i in range(len(ids)):
            for j in range(i):
                assert torch.equal(mask[i], mask[j]) == bool(ids[i] == ids[j]), (view, i, j)
    assert not torch.equal(keep["item"], keep["image"])


def test_masks_keep_the_share_that_dropout_leaves(data, kept_masks):
    system = built(BM3, data, dim=64, dropout=0.3)
    for _ in range(20):
        system.objective(batch_of(data, slice(0, 100)))
    for view in ("user", "item", "image", "text"):
        shares = [keep[view].float().mean().item() for keep in kept_masks]
        assert np.mean(shares) == pytest.approx(0.7, abs=0.02)
    assert not torch.equal(kept_masks[0]["user"], kept_masks[1]["user"])


def test_targets_are_scaled_and_get_no_gradient(data):
    system = built(BM3, data, dropout=0.75)
    view = torch.randn(5, 64, requires_grad=True)
    keep = torch.rand(5, 64) >= 0.75
    target = system._target(view, keep)
    assert not target.requires_grad
    torch.testing.assert_close(target, torch.where(keep, 4 * view.detach(), 0))


@pytest.mark.parametrize("training", [True, False])
def test_embeddings_know_no_dropout(data, training):
    system = built(BM3, data, dropout=0.9).train(training)
    users, items = torch.arange(data.n_users), torch.arange(data.n_items)
    batch = {"user": users, "item": items, "image": items, "text": items}
    first, second = system.embed(batch), system.embed(batch)
    h_user, h_item = system.online()
    for kind in batch:
        assert torch.equal(first[kind], second[kind])
    torch.testing.assert_close(first["user"], system.predictor(h_user))
    torch.testing.assert_close(first["item"], system.predictor(h_item))
    for modality in ("image", "text"):
        projected = system.project[modality](system.features[modality].weight)
        torch.testing.assert_close(first[modality], system.predictor(projected))


def test_gradient_reaches_the_raw_features_of_the_batch_alone(data):
    system = built(BM3, data, dim=8)
    batch = {"user": torch.tensor([0, 1, 2]), "item": torch.tensor([4, 11, 4])}
    system.objective(batch)["loss"].backward()
    for modality in ("image", "text"):
        touched = system.features[modality].weight.grad.abs().sum(1) > 0
        assert touched.nonzero().flatten().tolist() == [4, 11]
    # The penalty reaches every node, the batch reaches the predictor.
    assert (system.item_embedding.weight.grad.abs().sum(1) > 0).all()
    assert (system.user_embedding.weight.grad.abs().sum(1) > 0).all()


def test_penalty_takes_norms_of_all_nodes_over_the_number_of_items(data):
    system = built(BM3, data, dim=8, reg_weight=3.0)
    users, items = system.online()
    expected = (users.square().sum().sqrt() + items.square().sum().sqrt()) / data.n_items
    for rows in (slice(0, 2), slice(0, 50)):
        terms = system.objective(batch_of(data, rows))
        torch.testing.assert_close(terms["penalty"], expected)
        total = terms["reconstruction"] + 3 * terms["penalty"]
        total = total + 2 * (terms["inter_modality"] + terms["intra_modality"])
        torch.testing.assert_close(terms["loss"], total)
        assert set(terms) == TERMS


def test_terms_are_one_minus_the_cosine_to_the_masked_targets(data):
    torch.manual_seed(0)
    system = built(BM3, data, dim=8, dropout=0.4)
    batch = batch_of(data, slice(0, 7))
    keep = {view: torch.rand(7, 8) >= 0.4 for view in ("user", "item", "image", "text")}
    terms = system.loss(batch["user"], batch["item"], keep)

    def distance(online: torch.Tensor, target: torch.Tensor, view: str) -> torch.Tensor:
        masked = torch.where(keep[view], target, 0)
        return 1 - torch.cosine_similarity(system.predictor(online), masked).mean()

    all_users, all_items = system.online()
    user, item = all_users[batch["user"]], all_items[batch["item"]]
    modal = {m: system.project[m](data.features[m][batch["item"]]) for m in ("image", "text")}
    expected = {
        "reconstruction": distance(user, item, "item") + distance(item, user, "user"),
        "inter_modality": sum(distance(modal[m], item, "item") for m in modal),
        "intra_modality": sum(distance(modal[m], modal[m], m) for m in modal),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, atol=1e-5, rtol=1e-5)


def test_a_repeated_pair_counts_twice(data):
    system = built(BM3, data, dropout=0.0)
    pair = {"user": torch.tensor([0, 1]), "item": torch.tensor([4, 11])}
    one, other = (
        system.objective({k: v[i : i + 1] for k, v in pair.items()})["reconstruction"]
        for i in (0, 1)
    )
    thrice = {k: v[torch.tensor([0, 1, 0, 0])] for k, v in pair.items()}
    torch.testing.assert_close(
        system.objective(thrice)["reconstruction"], (3 * one + other) / 4, atol=1e-6, rtol=1e-5
    )


def test_the_batch_may_be_empty_as_on_a_process_without_a_row(data):
    system = built(BM3, data)
    terms = system.objective({k: v[:0] for k, v in batch_of(data, slice(0, 2)).items()})
    terms["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.grad is not None)
    assert set(terms) == TERMS


@pytest.mark.parametrize("arguments", [{"cl_weight": 0.0}, {"cl_weight": 0}])
def test_without_modality_terms_there_are_no_feature_parameters(data, arguments):
    system = built(BM3, data, **arguments)
    names = {name.split(".")[0] for name, _ in system.named_parameters()}
    assert names == {"user_embedding", "item_embedding", "predictor"}
    terms = system.objective(batch_of(data, slice(0, 30)))
    assert terms["inter_modality"] == terms["intra_modality"] == 0
    assert system.kinds == ["user", "item"]


def test_without_features_it_is_the_same_as_without_their_terms(data):
    losses = []
    for dims, weight in (({}, 2.0), (data.feature_dims, 0.0)):
        torch.manual_seed(0)
        system = BM3(data.n_users, data.n_items, data.n_interactions, dims, cl_weight=weight)
        system.prepare(data)
        losses.append(system.objective(batch_of(data, slice(0, 30)))["loss"])
    assert torch.equal(*losses)


def test_float64_agrees_with_float32(data):
    torch.manual_seed(0)
    system = built(BM3, data, dropout=0.0)
    batch = batch_of(data, slice(0, 64))
    single = system.objective(batch)
    double = system.double().objective(batch)
    for name in TERMS:
        assert double[name].dtype == torch.float64
        torch.testing.assert_close(single[name].double(), double[name], atol=1e-5, rtol=1e-5)


def test_loss_is_float32_under_bfloat16_autocast(data):
    torch.manual_seed(0)
    system = built(BM3, data, dropout=0.0)
    batch = batch_of(data, slice(0, 64))
    exact = system.objective(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = system.objective(batch)
    rough["loss"].backward()
    for name in TERMS:
        assert rough[name].dtype == torch.float32
        torch.testing.assert_close(rough[name], exact[name], atol=0.03, rtol=0.01)
    assert all(torch.isfinite(p.grad).all() for p in system.parameters())


def test_the_stop_gradient_keeps_the_items_apart(monkeypatch):
    data = generated(n_users=100, n_items=60)
    cosines = {}
    for stops in (True, False):
        if not stops:
            monkeypatch.setattr(BM3, "_target", lambda self, view, keep: view)
        torch.manual_seed(0)
        system = built(BM3, data, dim=16, dropout=0.5, reg_weight=0.0)
        optimizer = torch.optim.Adam(system.parameters(), lr=0.01)
        for _ in range(150):
            optimizer.zero_grad()
            system.objective(batch_of(data, slice(None)))["loss"].backward()
            optimizer.step()
        with torch.no_grad():
            items = normalize(system.online()[1], dim=1)
        cosines[stops] = ((items @ items.T).sum() - len(items)).item() / (60 * 59)
    assert cosines[False] > 0.8
    assert cosines[True] < cosines[False] - 0.3
