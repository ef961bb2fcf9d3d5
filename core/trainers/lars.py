"""LARS, the optimizer of large batches: every weight matrix moves in proportion to its own norm."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from core.data.checks import DataError


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888, algorithm 1).

    v <- m v + lr r (g + b w), w <- w - v, with the trust ratio r = eta |w| / |g + b w|, or 1 where
    one of the norms is 0. As in SimCLR and BYOL, parameters of fewer than two dimensions (biases,
    the scales of norms) are neither decayed nor adapted: there b = 0 and r = 1. The rate stands
    inside the momentum, as in the paper and in SimCLR's code; some ports multiply by it afterwards,
    which differs while the rate changes.

    A norm is that of the whole parameter, so parameters cannot be sharded over processes (FSDP).

    Args:
        params: parameters, or groups that may bring a `weight_decay` of their own.
        lr: SimCLR takes 0.3 a 256 rows of the batch.
        momentum: m, in [0, 1).
        weight_decay: b, added to the gradient and so part of the trust ratio.
        trust: eta, the trust coefficient.

    Raises:
        DataError: a number is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.3,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 1e-3,
    ) -> None:
        if not 0 <= momentum < 1:
            raise DataError(f"optimizer.momentum={momentum}", expected="a number in [0, 1)")
        for name, value in {"lr": lr, "weight_decay": weight_decay, "trust": trust}.items():
            if value < 0:
                raise DataError(f"optimizer.{name}={value}", expected="a number from 0")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; a parameter without a gradient stays as it is, and so does its momentum.

        Args:
            closure: computes the gradients and returns the loss.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [weight for weight in group["params"] if weight.grad is not None]
            self._step_adapted([weight for weight in moving if weight.ndim > 1], group)
            self._step_plain([weight for weight in moving if weight.ndim < 2], group)
        return loss

    def _step_adapted(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        if not weights:
            return
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        decayed = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        weight_norms = torch.stack(torch._foreach_norm(weights))
        norms = torch.stack(torch._foreach_norm(decayed))
        ratios = group["trust"] * weight_norms / norms
        ratios = torch.where((weight_norms > 0) & (norms > 0), ratios, 1.0)
        self._move(weights, torch._foreach_mul(decayed, (group["lr"] * ratios).unbind()), group)

    def _step_plain(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        if weights:
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            self._move(weights, torch._foreach_mul(gradients, group["lr"]), group)

    def _move(
        self, weights: list[Tensor], changes: tuple[Tensor, ...], group: dict[str, Any]
    ) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, changes)
        torch._foreach_sub_(weights, momenta)
