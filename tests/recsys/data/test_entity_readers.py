import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from core.data.checks import DataError
from recsys.data import pair_files
from recsys.data.entity_demo import CARDINALITIES, generate_entities, write_entity_demo
from recsys.data.entity_readers import check_entities, load_entities

N_QUERIES, N_ITEMS = 60, 40


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("entities") / "demo"
    write_entity_demo(folder, n_queries=N_QUERIES, n_items=N_ITEMS)
    return folder


@pytest.fixture
def folder(demo, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(demo, tmp_path / "shop"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(pair_files, "BLOCK_ROWS", 32)


def change(file: Path, **columns) -> None:
    """Gives a table other columns, or leaves out those that are None."""
    frame = pl.read_parquet(file)
    gone = [name for name, value in columns.items() if value is None]
    kept = {name: value for name, value in columns.items() if value is not None}
    frame.drop(gone).with_columns(**kept).write_parquet(file)


def with_code(column: str, row: int, code) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) == row).then(pl.lit(code)).otherwise(pl.col(column))


def set_vocabulary(folder: Path, **sizes) -> None:
    file = folder / "vocab.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | sizes))


def as_parquet_shards(folder: Path, n: int = 3) -> None:
    frame = pl.read_parquet(folder / "pairs.parquet")
    (folder / "pairs").mkdir()
    size = -(-len(frame) // n)
    for number, part in enumerate(frame.iter_slices(size)):
        part.write_parquet(folder / "pairs" / f"part-{number}.parquet", row_group_size=16)
    (folder / "pairs.parquet").unlink()


def as_tar_shards(folder: Path, n: int = 3, rows_a_sample: int = 1) -> None:
    frame = pl.read_parquet(folder / "pairs.parquet")
    (folder / "pairs").mkdir()
    size = -(-len(frame) // n)
    for number, part in enumerate(frame.iter_slices(size)):
        with tarfile.open(folder / "pairs" / f"{number:03}.tar", "w") as shard:
            for key, rows in enumerate(part.iter_slices(rows_a_sample)):
                sample = (
                    rows.row(0, named=True) if rows_a_sample == 1 else rows.to_dict(as_series=False)
                )
                for name, content in (
                    (f"{key:06}.json", json.dumps(sample)),
                    (f"{key:06}.txt", "x"),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content.encode()))
    (folder / "pairs.parquet").unlink()


def train_pairs(data) -> Counter:
    columns = [block.read() for block in data.train_blocks]
    assert [len(c["item_id"]) for c in columns] == [block.rows for block in data.train_blocks]
    return Counter(
        pair
        for c in columns
        for pair in zip(*(c[n].tolist() for n in ("query_id", "item_id")), strict=True)
    )


def pairs_of(table: torch.Tensor) -> set[tuple[int, int]]:
    found = [tuple(pair) for pair in table.T.tolist()]
    assert len(set(found)) == len(found)
    return set(found)


def test_the_demo_is_the_generated_data(demo):
    generated, data = generate_entities(0, N_QUERIES, N_ITEMS), load_entities(demo)
    assert list(data.items.features) == ["item", *(f"feature_{n}" for n in range(6))]
    assert [size for size, _ in data.items.features.values()] == [N_ITEMS, *CARDINALITIES]
    assert data.items.codes[:, 0].tolist() == list(range(N_ITEMS))
    np.testing.assert_array_equal(data.items.codes[:, 1:], generated.item_features)
    np.testing.assert_array_equal(data.queries.codes, generated.query_features)
    for query, items in enumerate(generated.pairs.tolist()):
        assert set(data.known[1, data.known[0] == query].tolist()) == set(items[:3])
        assert set(data.valid[1, data.valid[0] == query].tolist()) == {items[3]}
        assert set(data.test[1, data.test[0] == query].tolist()) == set(items[4:])
    counts = np.bincount(generated.pairs[:, :3].ravel(), minlength=N_ITEMS)
    assert data.item_counts.tolist() == counts.tolist()


def test_bags_are_padded_and_unknown_values_left_out(folder):
    bags = [[5, 7, 9], [], None, [100, 3], *([[1]] * (N_ITEMS - 4))]
    change(folder / "items.parquet", words=pl.Series(bags), feature_0=with_code("feature_0", 2, 60))
    set_vocabulary(folder, words=100)
    data = load_entities(folder)
    assert data.items.features["words"] == (100, 3)
    words = data.items.codes[:, -3:]
    assert words[:5].tolist() == [[5, 7, 9], [-1] * 3, [-1] * 3, [3, -1, -1], [1, -1, -1]]
    place = list(data.items.features).index("feature_0")
    assert data.items.codes[2, place] == -1
    with pytest.warns(UserWarning, match=r"1 bags of words are cut to data.max_bag=2 values"):
        data = load_entities(folder, max_bag=2)
    assert data.items.codes[0, -2:].tolist() == [5, 7]


def test_rows_may_stand_in_any_order(folder, demo):
    for name in ("items", "queries"):
        file = folder / f"{name}.parquet"
        pl.read_parquet(file).sample(fraction=1, shuffle=True, seed=1).write_parquet(file)
    assert load_entities(folder).digest() == load_entities(demo).digest()


def test_an_open_vocabulary_takes_any_code(folder):
    set_vocabulary(folder, feature_1=None)
    change(folder / "items.parquet", feature_1=with_code("feature_1", 3, 2**40))
    data = load_entities(folder)
    assert data.items.features["feature_1"] == (None, 1)
    assert data.items.codes.dtype == torch.int64
    assert 2**40 in data.items.codes[3].tolist()


@pytest.mark.parametrize(
    "shards", [as_parquet_shards, as_tar_shards, lambda f: as_tar_shards(f, 2, 7)]
)
@pytest.mark.parametrize("split", ["column", "by_time", "leave_out"])
def test_shards_give_what_one_file_gives(folder, shards, split):
    options = {"split": split, "ratios": (0.7, 0.1, 0.2)}
    expected = load_entities(folder, **options)
    shards(folder)
    data = load_entities(folder, **options)
    assert data.streamed is not None
    assert len(data.train_blocks) > 4
    assert train_pairs(data) == train_pairs(expected)
    for name in ("valid", "test", "item_counts"):
        assert torch.equal(getattr(data, name), getattr(expected, name)), name
    evaluated = set(expected.valid[0].tolist()) | set(expected.test[0].tolist())
    asked = {pair for pair in pairs_of(expected.known) if pair[0] in evaluated}
    assert pairs_of(data.known) == asked
    assert len(asked) > 20


def test_leave_out_is_by_chance_and_for_good(folder):
    options = {"split": "leave_out", "ratios": (0.6, 0.1, 0.3)}
    first = load_entities(folder, **options)
    n = len(pl.read_parquet(folder / "pairs.parquet"))
    shares = [first.known.shape[1] / n, first.valid.shape[1] / n, first.test.shape[1] / n]
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=0.08)
    other = load_entities(folder, **options, seed=1)
    assert pairs_of(first.test) != pairs_of(other.test)
    # More pairs, in another order, leave those there where they were.
    file = folder / "pairs.parquet"
    frame = pl.read_parquet(file).reverse()
    more = frame.with_columns((pl.col("item_id") + 1) % N_ITEMS)
    known = {(q, i) for q, i, *_ in frame.iter_rows()}
    pl.concat([more, frame]).write_parquet(file)
    grown = load_entities(folder, **options)
    assert pairs_of(grown.test) & known == pairs_of(first.test)
    assert pairs_of(grown.test) > pairs_of(first.test)


def test_by_time_is_cut_at_two_moments_that_are_kept(folder):
    options = {"split": "by_time", "ratios": (0.5, 0.25, 0.25)}
    first = load_entities(folder, **options)
    frame = pl.read_parquet(folder / "pairs.parquet").sort("timestamp")
    times = {(q, i): t for q, i, t, _ in frame.iter_rows()}
    latest = max(times[pair] for pair in pairs_of(first.known))
    assert latest < min(times[pair] for pair in pairs_of(first.valid))
    assert max(times[p] for p in pairs_of(first.valid)) < min(
        times[p] for p in pairs_of(first.test)
    )
    assert first.known.shape[1] == len(frame) // 2
    (kept,) = folder.glob("*by_time*")
    change(folder / "pairs.parquet", timestamp=pl.col("timestamp") + 10**9)
    data = check_entities(folder, **options)
    assert "no pair to train on" in str(data.problems[0])
    kept.unlink()
    assert pairs_of(load_entities(folder, **options).test) == pairs_of(first.test)


def test_dates_are_times(folder):
    options = {"split": "by_time", "ratios": (0.8, 0.1, 0.1)}
    expected = load_entities(folder, **options)
    next(folder.glob("*by_time*")).unlink()
    date = pl.from_epoch("timestamp", time_unit="s")
    change(folder / "pairs.parquet", timestamp=date)
    assert pl.read_parquet(folder / "pairs.parquet")["timestamp"].dtype == pl.Datetime
    assert pairs_of(load_entities(folder, **options).test) == pairs_of(expected.test)


def test_held_out_pairs_that_were_trained_are_left_out(folder):
    file = folder / "pairs.parquet"
    frame = pl.read_parquet(file)
    trained = frame.filter(pl.col("split") == 0).head(3).with_columns(split=pl.lit(2, pl.Int64))
    pl.concat([frame, trained, frame.filter(pl.col("split") == 2).head(2)]).write_parquet(file)
    with pytest.warns(UserWarning, match="3 test pairs are also in training: left out"):
        data = load_entities(folder)
    assert len(pairs_of(data.test)) == 2 * N_QUERIES


def test_checking_writes_nothing_and_counts(demo):
    before = sorted(demo.iterdir())
    report = check_entities(demo, split="by_time", ratios=(0.8, 0.1, 0.1))
    assert sorted(demo.iterdir()) == before
    assert report.problems == []
    assert report.facts["queries"] == N_QUERIES
    assert report.facts["train"] + report.facts["valid"] + report.facts["test"] == 6 * N_QUERIES
    assert report.facts["item feature feature_3"] == "50 codes"


def truncate(file: Path, share: float = 0.5) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def cut_between_samples(folder: Path) -> None:
    as_tar_shards(folder)
    file = folder / "pairs" / "001.tar"
    with tarfile.open(file) as shard:
        place = shard.getmembers()[20].offset
    file.write_bytes(file.read_bytes()[:place])


def _empty(file: Path) -> None:
    pl.read_parquet(file).clear().write_parquet(file)


SLIPS = {
    "a table is missing": (
        lambda f: (f / "items.parquet").unlink(),
        "items.parquet",
        "no such file",
    ),
    "a table is truncated": (lambda f: truncate(f / "items.parquet"), "items.parquet", "truncated"),
    "a table is empty": (
        lambda f: _empty(f / "queries.parquet"),
        "queries.parquet",
        "no row in it",
    ),
    "no id": (lambda f: change(f / "items.parquet", id=None), "items.parquet", "no column id"),
    "ids from 1": (
        lambda f: change(f / "items.parquet", id=pl.col("id") + 1),
        "items.parquet",
        "ids are not 0 to n - 1: in order, number 0 is 1",
    ),
    "an id twice": (
        lambda f: change(f / "queries.parquet", id=with_code("id", 7, 6)),
        "queries.parquet",
        "number 7 is 6",
    ),
    "ids are text": (
        lambda f: change(f / "items.parquet", id=pl.col("id").cast(pl.String)),
        "items.parquet",
        "id is String",
    ),
    "a code beyond its vocabulary": (
        lambda f: change(f / "items.parquet", feature_2=with_code("feature_2", 5, 31)),
        "items.parquet",
        "id 5: feature_2 is 31\n  expected: codes from 0 to 29, or 30 for unknown",
    ),
    "a negative code": (
        lambda f: change(f / "queries.parquet", noise=with_code("noise", 9, -1)),
        "queries.parquet",
        "id 9: noise is -1",
    ),
    "a feature of fractions": (
        lambda f: change(f / "items.parquet", feature_0=pl.col("feature_0") / 2),
        "items.parquet",
        "column feature_0 holds Float64",
    ),
    "no feature": (
        lambda f: change(f / "queries.parquet", topic=None, noise=None),
        "queries.parquet",
        "no feature: its columns are id",
    ),
    "a feature without column": (
        lambda f: set_vocabulary(f, colour=7),
        "vocab.json",
        "a column of neither table: ['colour']",
    ),
    "no vocabulary": (lambda f: (f / "vocab.json").unlink(), "vocab.json", "cannot be read"),
    "a broken vocabulary": (lambda f: truncate(f / "vocab.json"), "vocab.json", "not JSON"),
    "a size that is none": (
        lambda f: set_vocabulary(f, feature_1="many"),
        "vocab.json",
        "'feature_1' has the size 'many'",
    ),
    "no pairs": (lambda f: (f / "pairs.parquet").unlink(), "", "no pairs"),
    "pairs twice": (
        lambda f: (as_parquet_shards(f), (f / "pairs.parquet").write_bytes(b"")),
        "",
        "both pairs.parquet and files in pairs/",
    ),
    "empty pairs": (lambda f: _empty(f / "pairs.parquet"), "pairs.parquet", "no pair in it"),
    "truncated pairs": (lambda f: truncate(f / "pairs.parquet"), "pairs.parquet", "truncated"),
    "a truncated Parquet shard": (
        lambda f: (as_parquet_shards(f), truncate(f / "pairs/part-1.parquet")),
        "part-1.parquet",
        "truncated",
    ),
    "a tar shard cut inside a sample": (
        lambda f: (as_tar_shards(f), truncate(f / "pairs/002.tar", 0.4973)),
        "002.tar",
        "truncated",
    ),
    "a tar shard cut between samples": (cut_between_samples, "001.tar", "truncated"),
    "a sample that is no pair": (
        lambda f: (change(f / "pairs.parquet", item_id=None), as_tar_shards(f)),
        "000.tar",
        "000000.json: no column item_id",
    ),
    "a column is missing": (
        lambda f: change(f / "pairs.parquet", query_id=None),
        "pairs.parquet",
        "no column query_id",
    ),
    "an item that is none": (
        lambda f: change(f / "pairs.parquet", item_id=with_code("item_id", 40, N_ITEMS)),
        "pairs.parquet",
        "row 32 on, pair 8: item_id is 40",
    ),
    "a pair without query": (
        lambda f: change(f / "pairs.parquet", query_id=with_code("query_id", 3, None)),
        "pairs.parquet",
        "pair 3: query_id is None",
    ),
    "no split": (
        lambda f: change(f / "pairs.parquet", split=None),
        "pairs.parquet",
        "no column split",
    ),
    "an unknown split": (
        lambda f: change(f / "pairs.parquet", split=pl.col("split") + 1),
        "pairs.parquet",
        "labels other than 0, 1 and 2",
    ),
    "nothing to train on": (
        lambda f: change(f / "pairs.parquet", split=pl.lit(1)),
        "",
        "no pair to train on",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_every_slip_is_said_with_its_file(folder, slip):
    spoil, file, message = SLIPS[slip]
    spoil(folder)
    with pytest.raises(DataError) as caught:
        load_entities(folder)
    assert str(caught.value.path).endswith(file)
    assert message in str(caught.value)
    report = check_entities(folder)
    assert message in "\n".join(map(str, report.problems))


def test_one_check_shows_the_slips_of_every_file(folder):
    change(folder / "items.parquet", id=pl.col("id") + 1)
    change(folder / "queries.parquet", noise=pl.lit(99))
    problems = "\n".join(map(str, check_entities(folder).problems))
    assert "items.parquet" in problems
    assert "queries.parquet" in problems


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "by_times"}, "unknown split=by_times\n  expected: column | by_time | leave_out"),
        ({"split": "leave_out", "ratios": (0.5, 0.6, 0.1)}, "add up to 1"),
        ({"max_bag": 0}, "data.max_bag=0"),
    ],
)
def test_options_that_are_none(demo, options, message):
    with pytest.raises(DataError) as caught:
        load_entities(demo, **options)
    assert message in str(caught.value)


def test_by_time_needs_moments(folder):
    change(folder / "pairs.parquet", timestamp=with_code("timestamp", 3, None))
    with pytest.raises(DataError, match=r"row 0 on: timestamp .* has values that are no moment"):
        load_entities(folder, split="by_time")
    change(folder / "pairs.parquet", timestamp=None)
    with pytest.raises(DataError, match="no column timestamp"):
        load_entities(folder, split="by_time")


def test_a_shard_that_changes_while_it_is_trained_on(folder):
    as_parquet_shards(folder)
    data = load_entities(folder)
    change(folder / "pairs" / "part-0.parquet", split=pl.lit(2))
    with pytest.raises(DataError, match=r"part-0.parquet: row 0 on: 0 training pairs, there were"):
        train_pairs(data)


def test_the_digest_knows_every_file(folder):
    found = {load_entities(folder).digest()}
    change(folder / "items.parquet", feature_0=with_code("feature_0", 2, 1) + 0)
    found.add(load_entities(folder).digest())
    frame = pl.read_parquet(folder / "pairs.parquet")
    first = frame.with_row_index().filter(pl.col("split") == 0)["index"][0]
    change(folder / "pairs.parquet", split=with_code("split", first, 1))
    data = load_entities(folder)
    found.add(data.digest())
    assert len(found) == 3
    assert data.to("cpu").digest() == data.digest()
    assert data.without_test().test.shape == (2, 0)
