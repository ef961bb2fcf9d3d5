from collections import OrderedDict
from datetime import timedelta
from functools import partial

import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from core.build import build


def test_the_target_gets_plain_values() -> None:
    node = OmegaConf.create({"_target_": "builtins.dict", "a": [1, 2], "b": {"c": 3}, "d": "${a}"})
    built = build(node)
    assert built == {"a": [1, 2], "b": {"c": 3}, "d": [1, 2]}
    assert {type(built[key]) for key in "abd"} == {list, dict}


def test_further_arguments_go_before_those_of_the_node() -> None:
    node = OmegaConf.create({"_target_": "datetime.timedelta", "hours": 1, "minutes": 2})
    assert build(node, hours=5) == timedelta(hours=5, minutes=2)
    node = OmegaConf.create({"_target_": "builtins.dict"})
    assert build(node, sizes={"image": 3}) == {"sizes": {"image": 3}}
    assert type(build(node, sizes={"image": 3})["sizes"]) is dict


def test_a_partial_target_waits_for_the_rest() -> None:
    node = OmegaConf.create({"_target_": "collections.OrderedDict", "_partial_": True, "b": 2})
    built = build(node)
    assert isinstance(built, partial)
    assert built(a=1) == OrderedDict(b=2, a=1)


def test_what_the_target_says_is_not_lost() -> None:
    node = OmegaConf.create({"_target_": "builtins.int", "x": 3})
    with pytest.raises(InstantiationException) as caught:
        build(node)
    assert isinstance(caught.value.__cause__, TypeError)
