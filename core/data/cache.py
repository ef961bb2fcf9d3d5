"""Tensors that took long to compute, kept in files of the user's cache folder."""

import contextlib
import os
import uuid
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_DIGEST_BYTES = 32


def cached(
    name: str, key: str, compute: Callable[[], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], bool]:
    """What `compute` returns, from a file where an earlier call with the same key has left it.

    A file that is damaged, cut off, or was written for another key is computed anew and replaced;
    it appears whole or not at all. Where the folder cannot be written, nothing is kept.

    Args:
        name: what the tensors are; a folder of the cache.
        key: all that they depend on, with a version of the code that computes them.
        compute: makes them; they are kept as on the CPU.

    Returns:
        The tensors on the CPU, and whether they were read.
    """
    path = cache_folder() / name / f"{sha256(key.encode()).hexdigest()[:32]}.cache"
    found = _read(path, key)
    if found is not None:
        return found, True
    computed = {field: tensor.cpu().contiguous() for field, tensor in compute().items()}
    payload = save(computed)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    # A cache is a convenience: a full disk or a folder of someone else must not stop a training.
    with contextlib.suppress(OSError):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(_digest(key, payload) + payload)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return computed, False


def cache_folder() -> Path:
    """`$CONSILIENCE_CACHE`, or else `consilience` in `$XDG_CACHE_HOME`, by default `~/.cache`."""
    if own := os.environ.get("CONSILIENCE_CACHE"):
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "consilience"


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    try:
        content = path.read_bytes()
        digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return load(payload) if digest == _digest(key, payload) else None
    except (OSError, SafetensorError):
        return None


def _digest(key: str, payload: bytes) -> bytes:
    return sha256(f"{len(key)}:{key}".encode() + payload).digest()
