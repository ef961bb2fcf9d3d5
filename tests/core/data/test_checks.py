import pickle
from pathlib import Path

from core.data.checks import DataError


def test_the_message_says_where_what_and_what_to_do() -> None:
    error = DataError(
        "3 columns", path=Path("a/b.inter"), line=7, expected="2 columns", fix="remove one"
    )
    assert str(error) == ("a/b.inter:7: 3 columns\n  expected: 2 columns\n  to do:    remove one")
    assert (error.found, error.path, error.line) == ("3 columns", Path("a/b.inter"), 7)


def test_only_what_is_known_is_said() -> None:
    assert str(DataError("empty")) == "empty"
    assert str(DataError("empty", path="x.npy")) == "x.npy: empty"
    assert str(DataError("empty", fix="fill it")) == "empty\n  to do:    fill it"
    assert str(DataError("empty", line=3)) == "empty"


def test_it_travels_between_processes() -> None:
    error = DataError("3 columns", path="b.inter", line=7, expected="2", fix="remove one")
    arrived = pickle.loads(pickle.dumps(error))
    assert str(arrived) == str(error)
    assert (arrived.found, arrived.path, arrived.line) == ("3 columns", "b.inter", 7)
