"""System: what every method is to the trainer, to the evaluation and to the hub."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Self, TypeVar

import torch
from huggingface_hub import ModelHubMixin, PyTorchModelHubMixin
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from core.data.checks import DataError
from core.trainers.schedules import constant

Batch = dict[str, Tensor]
T = TypeVar("T", bound=ModelHubMixin)


class System(LightningModule, PyTorchModelHubMixin):
    """The base of all methods: an objective to minimise and embeddings to use.

    A method defines `objective` and `embed`, and `prepare` when it keeps something of the training
    data. Constructor arguments must be plain values (numbers, strings, lists, dicts): with them and
    the weights a system is rebuilt by `from_pretrained` and from any checkpoint.

    Attributes:
        make_optimizer: parameter groups -> optimizer.
        make_schedule: (optimizer, total steps) -> learning-rate schedule, stepped every step.
        latest: what the online monitors look at. An objective that has a representation at hand
            sets `self.latest = {"features": h.detach()}`, (B, D), a row for each row of the batch.
    """

    make_optimizer: Callable[[list[dict[str, Any]]], Optimizer] = partial(
        torch.optim.AdamW, lr=1e-3, weight_decay=0.0
    )
    make_schedule: Callable[[Optimizer, int], LRScheduler] = staticmethod(constant)
    latest: Mapping[str, Tensor] = MappingProxyType({})

    @classmethod
    def of(cls, sizes: Mapping[str, Any], **arguments: Any) -> Self:  # noqa: ANN401
        """A system with those of the sizes of the data (`Task.system_arguments`) that it names.

        Args:
            sizes: name -> value; what is no argument of the constructor is left out. One that takes
                `**` takes what the constructor of its base class does.
            arguments: of the constructor.
        """
        named: set[str] = set()
        for base in (base for base in cls.__mro__ if "__init__" in vars(base)):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            named |= set(parameters)
            if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
                break
        return cls(**{name: of for name, of in sizes.items() if name in named}, **arguments)

    def prepare(self, data: Any) -> None:  # noqa: ANN401 - each domain has its own data class
        """Keeps what the method needs of the training data; called once, before training."""

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The named terms of the objective, each a scalar; `"loss"` is what is minimised."""
        raise NotImplementedError(f"{type(self).__name__} does not define its objective")

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Modality -> (B, D) float32, plus `"joint"` where the method fuses them.

        Without dropout or augmentation; of unit length only if the method says so.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define its embeddings")

    def update_teachers(self, step: int, total_steps: int) -> None:
        """Moves what follows the weights, e.g. an EMA teacher; called after every optimizer step.

        Args:
            step: number of the optimizer step just taken, from 0.
            total_steps: optimizer steps of the whole training.
        """

    @classmethod
    def _load_as_safetensor(cls, model: T, model_file: str, map_location: str, strict: bool) -> T:
        # The hub's own default would leave what a file lacks as it was drawn at random.
        try:
            return super()._load_as_safetensor(model, model_file, map_location, strict=True)
        except (RuntimeError, OSError, SafetensorError) as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
            raise DataError(
                f"cannot be read as weights of {cls.__name__}: {reason}",
                path=model_file,
                expected="a folder written by save_pretrained of the same method",
            ) from error

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One step of Lightning's loop; hands every term of the objective over to `LogTerms`."""
        terms = self.objective(batch)
        # Logging costs as much as a small step, so only the steps that are written hand over.
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.trainer.global_step + 1) % every == 0:
            train = {f"train/{name}": term.detach() for name, term in terms.items()}
            # The mean over the processes is the term of the whole batch; each has only its share.
            self.log_dict(train, logger=False, sync_dist=True)
            self.log("loss", train["train/loss"], prog_bar=True, logger=False, sync_dist=True)
        return terms["loss"] if terms["loss"].requires_grad else None

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Takes the step, then lets the teachers follow, before any callback can save either."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        step = self.trainer.global_step  # still counts the steps before this one
        self.update_teachers(step, int(self.trainer.estimated_stepping_batches))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm of the gradient, also before a fused optimizer in bf16-mixed.

        Lightning refuses that for the sake of the loss scaler, which only 16-mixed has.
        """
        if gradient_clip_val and self.trainer.precision == "bf16-mixed":
            self.trainer.precision_plugin.clip_grad_by_norm(optimizer, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Two groups: weights that decay; norms, biases and embeddings, which do not."""
        exempt = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
        decay: list[nn.Parameter] = []
        no_decay: list[nn.Parameter] = []
        seen: set[nn.Parameter] = set()  # a parameter that two modules share counts once
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad or parameter in seen:
                    continue
                seen.add(parameter)
                stays = isinstance(module, exempt) or name == "bias" or parameter.ndim < 2
                (no_decay if stays else decay).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": decay},
            {"params": no_decay, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig | None:
        """The config's optimizer over `parameter_groups`, its schedule stepped every step.

        None for a system that has nothing to train.
        """
        groups = self.parameter_groups()
        if not groups:
            return None
        optimizer = self.make_optimizer(groups)
        for group in optimizer.param_groups:  # before the schedule takes its rates as the highest
            group["lr"] = group["lr"] * group.get("lr_scale", 1.0)
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.make_schedule(optimizer, total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
