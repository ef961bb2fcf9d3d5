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

    float32 and float64 tensors stay as they are, and so do integers, masks and lists.
    """

    @functools.wraps(loss)
    def in_full_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device, enabled=False):
            wide: Any = [_widen(x) for x in args]
            return loss(*wide, **{name: _widen(x) for name, x in kwargs.items()})  # type: ignore[arg-type]

    return in_full_precision


def _widen(x: object) -> object:
    half = isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if half and isinstance(x, Tensor) else x
