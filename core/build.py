"""From a config node to the object it describes."""

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from core.data.checks import DataError

if TYPE_CHECKING:
    from core.trainers.system import System

_PACKAGES = ("core", "medical", "remote_sensing", "audio_music", "recsys", "har")
_ROOMS = ("augment", "encoders", "losses", "systems")
_TRUSTED = "CONSILIENCE_TRUSTED"


def build(node: DictConfig, **arguments: Any) -> Any:  # noqa: ANN401 - as many types as targets
    """Calls the node's `_target_` with its values and `arguments`, all as plain Python values."""
    return instantiate(node, **arguments, _convert_="all")


def build_system(node: DictConfig, sizes: Mapping[str, Any]) -> "System":
    """The system of a config, for data of these sizes (`System.of`)."""
    system: System = build(node, _target_=f"{node._target_}.of", sizes=sizes)
    return system


def build_part(config: dict[str, Any], **arguments: Any) -> Any:  # noqa: ANN401 - likewise
    """`build` for a part of a system, e.g. its encoder, which checkpoints describe by plain values.

    A checkpoint may come from anyone and a target is code that is run, so only classes of this
    project's encoders, systems, losses and augmentations are called, and what lies in a package
    that `$CONSILIENCE_TRUSTED` names (several with commas).

    Raises:
        DataError: the config would call anything else.
    """
    for target in targets(config):
        if not is_part(target):
            raise DataError(
                f"a part of the system would be made by {target}",
                expected="a class of core.encoders, or of another room of this project",
                fix=f"if you trust it, say so: {_TRUSTED}={target.partition('.')[0]}",
            )
    return instantiate(config, **arguments, _convert_="all")


def is_part(target: str) -> bool:
    """Whether `build_part` calls a target of this name."""
    package, _, rest = target.partition(".")
    if package in os.environ.get(_TRUSTED, "").split(","):
        return True
    if package not in _PACKAGES or rest.partition(".")[0] not in _ROOMS:
        return False
    try:
        found = get_object(target)
    except (ImportError, ValueError):
        return False
    # Defined in that room, not merely imported by one of its modules.
    return isinstance(found, type) and f"{found.__module__}.{found.__qualname__}" == target


def targets(node: Any) -> Iterator[str]:  # noqa: ANN401 - whatever a YAML file holds
    """Every `_target_` in nested dicts and lists."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from targets(value)
