import pytest
import torch
from torch.nn.functional import logsigmoid

from core.data.checks import DataError
from recsys.systems.vbpr import VBPR
from tests.recsys.generated import batch_of, built, generated


@pytest.fixture
def data():
    return generated()


@pytest.fixture
def system(data):
    system = built(VBPR, data, dim=5, feature_dim=3, reg_weight=0.1)
    for parameter in (system.item_bias.weight, system.visual_bias.weight):
        torch.nn.init.normal_(parameter)
    return system


def equation_4(system, user: int, item: int) -> torch.Tensor:
    feature = system.features[item]
    return (
        system.item_bias.weight[item, 0]
        + system.user_latent.weight[user] @ system.item_latent.weight[item]
        + system.user_visual.weight[user] @ (system.project.weight @ feature)
        + system.visual_bias.weight[0] @ feature
    )


def test_tables_rank_by_equation_4(system, data):
    tables = system.tables()
    scores = tables["user"] @ tables["item"].T
    assert scores.shape == (data.n_users, data.n_items)
    for user in range(0, data.n_users, 7):
        for item in range(data.n_items):
            torch.testing.assert_close(scores[user, item], equation_4(system, user, item))


def test_objective_is_bpr_on_equation_4_with_half_squared_norms(system, data):
    batch = batch_of(data, slice(0, 9), negatives=True)
    expected = torch.zeros(())
    for user, item, other in zip(*(batch[k].tolist() for k in batch), strict=True):
        expected = expected - logsigmoid(
            equation_4(system, user, item) - equation_4(system, user, other)
        )
        touched = [system.user_latent.weight[user], system.user_visual.weight[user]]
        touched += [
            t.weight[i] for t in (system.item_latent, system.item_bias) for i in (item, other)
        ]
        expected = expected + 0.1 * 0.5 * sum(row.square().sum() for row in touched)
    torch.testing.assert_close(system.objective(batch)["loss"], expected / 9)


def test_features_stay_and_no_modality_drowns_the_other(system, data):
    assert not any(name.startswith("features") for name, _ in system.named_parameters())
    image, text = system.features.split([64, 32], dim=1)
    for part, raw in ((image, data.features["image"]), (text, data.features["text"])):
        assert part.norm(dim=1).mean().item() == pytest.approx(1, rel=1e-5)
        torch.testing.assert_close(part * (raw.norm(dim=1).mean()), raw)


def test_data_without_features_are_refused():
    with pytest.raises(DataError, match="vbpr needs item features"):
        VBPR(3, 4, 5, {})
