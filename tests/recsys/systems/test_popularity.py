import torch

from recsys.systems.popularity import Popularity
from recsys.task import TopKRecommendation
from tests.recsys.generated import built, generated


def test_scores_are_the_training_counts_for_every_user():
    data = generated()
    tables = built(Popularity, data).tables()
    counts = [(data.train[1] == item).sum().item() for item in range(data.n_items)]
    assert (tables["user"] @ tables["item"].T).tolist() == [counts] * data.n_users


def test_search_goes_down_the_counts_past_what_the_user_has_taken():
    data = generated()
    rows = TopKRecommendation().search(built(Popularity, data), data, "user:u3", k=data.n_items)
    counts = torch.bincount(data.train[1], minlength=data.n_items)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    found = [int(row["item"].removeprefix("i")) for row in rows]
    assert scores == counts[found].tolist()
    mine = torch.cat([data.train, data.valid, data.test], 1)
    taken = set(mine[1, mine[0] == 3].tolist())
    assert taken
    assert set(found) == set(range(data.n_items)) - taken
