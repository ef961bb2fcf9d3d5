"""Pickles of numbers, text, plain containers and arrays, read without running what is in them."""

import pickle
from typing import IO, Any

# All that plain containers and numpy arrays of numbers need, in numpy 1 and 2.
_ALLOWED = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


def load_arrays(file: IO[bytes]) -> Any:  # noqa: ANN401 - whatever the file holds
    """What a pickle holds, if that is numbers, text, plain containers and numpy arrays alone.

    Raises:
        UnpicklingError: it would call anything else.
        Exception: of other types, where the file is damaged.
    """
    return _Restricted(file).load()
