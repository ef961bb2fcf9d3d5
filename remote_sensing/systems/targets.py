"""What a model of series predicts, and what its errors cost: one class, several labels, a value."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.distributed import all_reduce_sum, global_mean, global_sum
from core.losses.precision import full_precision
from core.trainers.system import Batch


class Classes(nn.Module):
    """One class a sample: cross entropy, in which every class of the training has the same weight.

    The weight of a class is N / (C n_c) over the N training samples, of which n_c are of the class
    and C classes have any. Samples with a negative label cost nothing.

    Args:
        n_outputs: classes.

    Attributes:
        weights: (classes,) 1 until `prepare` has seen the training samples.
    """

    weights: Tensor

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.register_buffer("weights", torch.ones(n_outputs))

    def prepare(self, train: Batch) -> None:
        """Weighs the classes by the training samples.

        Args:
            train: the columns of the training split.
        """
        self.weights.copy_(balanced_weights(train["label"], self.n_outputs))

    def cost(self, outputs: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
        """The weighted mean over the samples of all processes."""
        return weighted_cross_entropy(outputs, batch["label"], self.weights)

    def imitation(
        self,
        outputs: Float[Tensor, "batch classes"],
        taught: Float[Tensor, "batch classes"],
        temperature: float,
    ) -> Float[Tensor, ""]:
        """T² KL(teacher || student) of both softmaxes at a temperature T."""
        wide = torch.promote_types(outputs.dtype, torch.float32)
        student = F.log_softmax(outputs.to(wide) / temperature, 1)
        teacher = F.log_softmax(taught.to(wide) / temperature, 1)
        each = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
        return temperature**2 * global_mean(each)


class Labels(nn.Module):
    """Several labels a sample, each on or off: binary cross entropy with logits.

    Args:
        n_outputs: labels.
    """

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs

    def prepare(self, train: Batch) -> None:
        """Needs nothing of the training samples."""

    def cost(self, outputs: Float[Tensor, "batch labels"], batch: Batch) -> Float[Tensor, ""]:
        """The mean over samples and labels."""
        wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        target = batch["target"].to(wide.dtype)
        costs = F.binary_cross_entropy_with_logits(wide, target, reduction="none")
        return global_mean(costs)

    def imitation(
        self,
        outputs: Float[Tensor, "batch labels"],
        taught: Float[Tensor, "batch labels"],
        temperature: float,
    ) -> Float[Tensor, ""]:
        """T² KL(teacher || student) of every label at a temperature T, mean over the labels."""
        wide = torch.promote_types(outputs.dtype, torch.float32)
        student, teacher = outputs.to(wide) / temperature, taught.to(wide) / temperature
        on = teacher.sigmoid()
        each = on * (F.logsigmoid(teacher) - F.logsigmoid(student))
        each = each + (1 - on) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
        return temperature**2 * global_mean(each)


class Values(nn.Module):
    """One number a sample: squared error of the standardised target.

    The outputs are in the target's own unit; (output - y) is divided by the target's deviation
    over the training samples, from which its mean has cancelled.

    Args:
        n_outputs: 1.

    Attributes:
        deviation: of the target; 1 until `prepare` has seen the training samples.
    """

    deviation: Tensor

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.register_buffer("deviation", torch.ones(()))

    def prepare(self, train: Batch) -> None:
        """Takes the deviation of the training samples; 1 where they are all alike."""
        deviation = train["target"].double().std(correction=0)
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def cost(self, outputs: Float[Tensor, "batch 1"], batch: Batch) -> Float[Tensor, ""]:
        """The mean over the samples of all processes."""
        return global_mean(((outputs - batch["target"]) / self.deviation).square())

    def imitation(
        self,
        outputs: Float[Tensor, "batch 1"],
        taught: Float[Tensor, "batch 1"],
        temperature: float,
    ) -> Float[Tensor, ""]:
        """Squared distance from the teacher's values in deviations; they have no temperature."""
        return global_mean(((outputs - taught) / self.deviation).square())


def balanced_weights(label: Int64[Tensor, " n"], n_classes: int) -> Float[Tensor, " classes"]:
    """N / (C n_c) of every class, 1 for those that no sample has."""
    counts = torch.bincount(label[label >= 0], minlength=n_classes).double()
    present = (counts > 0).sum().clamp(min=1)
    weights = counts.sum() / (present * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 1.0).float()


@full_precision
def weighted_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    label: Int64[Tensor, " batch"],
    weights: Float[Tensor, " classes"],
) -> Float[Tensor, ""]:
    """Σ w_y CE / Σ w_y over the samples of all processes; negative labels are left out."""
    known = label >= 0
    wanted = label.clamp(min=0)
    weight = weights.to(logits.dtype)[wanted] * known
    costs = F.cross_entropy(logits, wanted, reduction="none") * weight
    total = all_reduce_sum(weight.sum())
    return global_sum(costs) / total.clamp(min=torch.finfo(total.dtype).tiny)
