"""Linear probe: multinomial logistic regression on frozen features, by L-BFGS."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from core.data.checks import DataError

PENALTIES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: softmax(W (x - mean) / std + b).

    The penalty is chosen on validation, by accuracy and, of equals, by the log-loss. The weights
    are those fitted to the training rows alone: no refit on training and validation together, so
    that a probe never sees more labels than its training split has.

    Attributes:
        weight: (classes, dim), of the standardised features.
        bias: (classes,).
        mean: (dim,) of the training rows.
        std: (dim,) divisors: the deviations of the training rows, or one for all of them; 1
            where a feature is constant, greater in wide `groups`.
        classes: (classes,) labels that training rows have, ascending; no other is ever predicted.
        n_classes: 1 + the largest label of training or validation.
        penalty: the one chosen.
        valid_accuracy: penalty -> accuracy on validation, 0 to 1.
    """

    weight: Float[Tensor, "classes dim"]
    bias: Float[Tensor, " classes"]
    mean: Float[Tensor, " dim"]
    std: Float[Tensor, " dim"]
    classes: Int64[Tensor, " classes"]
    n_classes: int
    penalty: float
    valid_accuracy: dict[float, float]

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "n dim"],
        labels: Int[Tensor, " n"],
        valid_features: Float[Tensor, "v dim"],
        valid_labels: Int[Tensor, " v"],
        penalties: Sequence[float] = PENALTIES,
        max_iterations: int = 500,
        groups: Sequence[int] | None = None,
        standardize: bool = True,
    ) -> Self:
        """Fits one probe for each penalty, strongest first, each from the one before.

        The objective is the mean cross-entropy + penalty / 2 * ||W||^2, the bias not penalised:
        scikit-learn's LogisticRegression at C = 1 / (penalty * n), and with two classes still one
        row of weights for each. It is convex, so the order of
        the penalties matters for time only. Runs on the device of the features, in their dtype,
        float32 at least, also under autocast and in inference mode; training rows are copied once.

        Args:
            features: training rows; centred and scaled here, by their own mean and deviation.
            labels: their classes, from 0.
            valid_features: rows that choose the penalty.
            valid_labels: their classes; one that no training row has counts as an error.
            penalties: positive; those to choose from.
            max_iterations: of L-BFGS, for each penalty.
            groups: numbers of consecutive features that belong together, such as those of each
                modality; each group then has the same variance in all, so that the widest does not
                drown the others. Groups of one width are as none.
            standardize: False divides all features of a group by one number, their root mean square
                deviation, as a linear layer on the features themselves sees them: what hardly
                varies stays small. Features of ReLUs that seldom fire are not blown up then.

        Raises:
            DataError: no rows, sizes that do not match, fewer than two classes, negative labels,
                NaN or infinite features, a penalty that is not positive.
        """
        _check("training", features, labels)
        _check("validation", valid_features, valid_labels)
        if features.shape[1] != valid_features.shape[1]:
            raise DataError(
                f"{features.shape[1]} training features, {valid_features.shape[1]} of validation",
                expected="embeddings of one model",
            )
        if not penalties or min(penalties) <= 0:
            raise DataError(f"penalties are {list(penalties)}", expected="positive numbers")
        classes = torch.unique(labels).long()
        if len(classes) < 2:
            raise DataError(
                f"all {len(labels)} training rows have the label {int(classes[0])}",
                expected="two classes or more",
            )
        device = features.device
        with (
            torch.inference_mode(False),
            torch.autocast(device.type, enabled=False),
            torch.no_grad(),
        ):
            # Copies, because gradients may not pass through tensors of inference mode.
            classes = classes.clone()
            x = features.to(torch.promote_types(features.dtype, torch.float32))
            std, mean = torch.std_mean(x, 0, correction=0)
            # A constant column has the deviation of its rounding errors.
            constant = std <= 10 * torch.finfo(x.dtype).eps * mean.abs()
            if not standardize:
                widths = [x.shape[1]] if groups is None else list(groups)
                std = torch.cat(
                    [of.square().mean().sqrt().expand(len(of)) for of in std.split(widths)]
                )
            std = std.masked_fill(constant, 1)
            if groups is not None:
                sizes = torch.tensor(groups, dtype=x.dtype, device=device)
                share = (sizes * len(groups) / sizes.sum()).sqrt()
                std = std * share.repeat_interleave(torch.tensor(groups, device=device))
            x = ((x - mean) / std).masked_fill(constant, 0)
            y = torch.searchsorted(classes, labels.long())
            n_classes = 1 + int(torch.maximum(labels.max(), valid_labels.max()))

            # The best weights lie in the span of the rows. With fewer rows than features that span
            # is small, and the same optimum is found in its coordinates.
            basis = None
            if x.shape[1] > len(x):
                basis, triangle = torch.linalg.qr(x.T)
                x = triangle.T.contiguous()

            start = x.new_zeros(len(classes), x.shape[1] + 1)
            best, best_rank = None, (-1.0, 0.0)
            accuracies: dict[float, float] = {}
            for penalty in sorted(penalties, reverse=True):
                start = _minimise(x, y, penalty, start, max_iterations)
                weight = start[:, :-1] if basis is None else start[:, :-1] @ basis.T
                probe = cls(
                    weight, start[:, -1], mean, std, classes, n_classes, penalty, accuracies
                )
                accuracies[penalty] = probe.accuracy(valid_features, valid_labels)
                rank = accuracies[penalty], probe._log_likelihood(valid_features, valid_labels)
                if best is None or rank > best_rank:
                    best, best_rank = probe, rank
        assert best is not None
        return best

    @torch.no_grad()
    def scores(self, features: Float[Tensor, "m dim"]) -> Float[Tensor, "m n_classes"]:
        """Probabilities of all `n_classes`; 0 for those that no training row has."""
        known = self._logits(features).softmax(1)
        scores = known.new_zeros(len(known), self.n_classes)
        return scores.index_copy_(1, self.classes, known)

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "m dim"]) -> Int64[Tensor, " m"]:
        """The most probable class of each row."""
        return self.classes[self._logits(features).argmax(1)]

    def accuracy(self, features: Float[Tensor, "m dim"], labels: Int[Tensor, " m"]) -> float:
        """Share of the rows that are predicted right, 0 to 1."""
        return (self.predict(features) == labels).double().mean().item()

    def _logits(self, features: Tensor) -> Tensor:
        """Logits of the known classes, in the dtype of the weights."""
        x = (features.to(self.weight.dtype) - self.mean) / self.std
        with torch.autocast(x.device.type, enabled=False):
            return x @ self.weight.T + self.bias

    def _log_likelihood(self, features: Tensor, labels: Tensor) -> float:
        """Mean log-probability of the labels, over the rows whose label training has."""
        known = torch.isin(labels, self.classes)
        targets = torch.searchsorted(self.classes, labels[known].long())
        return -cross_entropy(self._logits(features[known]), targets).nan_to_num().item()


def _minimise(
    x: Float[Tensor, "n dim"],
    y: Int64[Tensor, " n"],
    penalty: float,
    start: Float[Tensor, "classes dim_and_bias"],
    max_iterations: int,
) -> Float[Tensor, "classes dim_and_bias"]:
    """Weights, and bias in the last column, of least penalised cross-entropy."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=max_iterations,
        # The weights are off by at most the gradient over the penalty.
        tolerance_grad=min(1e-6, penalty / 100),
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        weight, bias = parameters[:, :-1], parameters[:, -1]
        loss = cross_entropy(x @ weight.T + bias, y) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return parameters.detach()


def _check(split: str, features: Tensor, labels: Tensor) -> None:
    """Refuse rows that would end in a wrong number or in an error from inside a kernel."""
    if len(features) == 0:
        raise DataError(f"there are no {split} rows", expected="one labelled row or more")
    if len(labels) != len(features):
        raise DataError(
            f"{len(labels)} labels for {len(features)} {split} rows",
            expected="one label for each row",
        )
    lowest = int(labels.min())
    if lowest < 0:
        raise DataError(
            f"{split} labels from {lowest}",
            expected="classes numbered from 0",
            fix="leave out rows without a label",
        )
    broken = int((~torch.isfinite(features)).any(1).sum())
    if broken:
        raise DataError(
            f"{broken} of {len(features)} {split} rows hold NaN or infinite values",
            expected="finite embeddings",
            fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
        )
