"""Losses compute in float32 at least, whatever autocast and the dtype of the inputs say."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Runs `loss` outside autocast, with its half precision tensors cast to float32.

    Tensors in a list are cast too; float32, float64, integers and masks stay as they are.
    """

    @functools.wraps(loss)
    def in_full_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(_device(*args, *kwargs.values()), enabled=False):
            wide: Any = [_widen(x) for x in args]
            return loss(*wide, **{name: _widen(x) for name, x in kwargs.items()})  # type: ignore[arg-type]

    return in_full_precision


def _device(*arguments: object) -> str:
    for x in arguments:
        if isinstance(x, list | tuple) and x:
            x = x[0]
        if isinstance(x, Tensor):
            return x.device.type
    return "cpu"


def _widen(x: object) -> object:
    if isinstance(x, list | tuple):
        return [_widen(item) for item in x]
    if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16):
        return x.float()
    return x
