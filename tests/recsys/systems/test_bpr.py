import torch
from torch.nn.functional import logsigmoid

from recsys.systems.bpr import BPR
from tests.recsys.generated import batch_of, built, generated


def test_objective_is_the_papers_with_half_squared_norms_a_pair():
    data = generated()
    system = built(BPR, data, dim=4, reg_weight=0.2)
    batch = batch_of(data, slice(0, 20), negatives=True)
    user = system.user_embedding.weight[batch["user"]]
    item = system.item_embedding.weight[batch["item"]]
    other = system.item_embedding.weight[batch["negative"]]
    squares = user.square() + item.square() + other.square()
    expected = -logsigmoid((user * (item - other)).sum(1)) + 0.2 / 2 * squares.sum(1)
    torch.testing.assert_close(system.objective(batch)["loss"], expected.mean())


def test_training_ranks_the_taken_above_the_others():
    data = generated()
    torch.manual_seed(0)
    system = built(BPR, data, dim=16)
    optimizer = torch.optim.Adam(system.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    taken = torch.zeros(data.n_users, data.n_items, dtype=torch.bool)
    taken[data.train[0], data.train[1]] = True
    for _ in range(60):
        others = torch.multinomial((~taken[data.train[0]]).float(), 1, generator=generator)
        optimizer.zero_grad()
        batch = {"user": data.train[0], "item": data.train[1], "negative": others.flatten()}
        system.objective(batch)["loss"].backward()
        optimizer.step()
    tables = system.tables()
    scores = tables["user"] @ tables["item"].T
    assert scores[taken].mean() > scores[~taken].mean() + 1
