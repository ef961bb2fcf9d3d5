"""From a config node to the object it describes."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig


def build(node: DictConfig, **arguments: Any) -> Any:  # noqa: ANN401 - as many types as targets
    """Calls the node's `_target_` with its values and `arguments`, all as plain Python values."""
    return instantiate(node, **arguments, _convert_="all")
