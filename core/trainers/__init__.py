"""Training on Lightning: the System base, fit, schedules, checkpoints' callbacks, logs."""

from core.trainers.fit import Fit, fit
from core.trainers.system import Batch, System
from core.trainers.task import Data, Loader, Task

__all__ = ["Batch", "Data", "Fit", "Loader", "System", "Task", "fit"]
