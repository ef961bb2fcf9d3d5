"""Approximate nearest neighbours on disk (FAISS), for catalogues where exact search is too slow.

An index folder holds one FAISS file a space of vectors and `index.json`, which says which weights
the vectors come from, so that an index of other embeddings is refused.
"""

import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64

from core.data.checks import DataError

Kind = Literal["exact", "hnsw", "ivf"]
Vectors = Float32[np.ndarray, "n dim"]


class NeighbourIndex:
    """Inner-product neighbours in named spaces of vectors, written to and read from a folder.

    Args:
        spaces: name -> (n, dim) float32 vectors.
        source: digest of what the vectors come from, weights and data.
        kind: `exact`; `hnsw`, a graph of 32 neighbours, fast to ask; `ivf`, lists of about
            4 sqrt(n) centres of which a sixteenth, at least 8, are read; fast to build.
    """

    def __init__(self, spaces: dict[str, Vectors], source: str, kind: Kind = "hnsw") -> None:
        self.source, self.kind = source, kind
        self.indexes = {name: _build(vectors, kind) for name, vectors in spaces.items()}

    def search(
        self, space: str, queries: Float32[np.ndarray, "m dim"], k: int
    ) -> tuple[Float32[np.ndarray, "m k"], Int64[np.ndarray, "m k"]]:
        """Scores and row numbers of the k nearest, best first; -1 where fewer were found."""
        found: tuple[Any, Any] = self.indexes[space].search(np.ascontiguousarray(queries), k)
        return found

    def recall(self, space: str, vectors: Vectors, queries: Vectors, k: int) -> float:
        """Share of the exact k nearest `vectors` of the queries that the index finds."""
        exact = _build(vectors, "exact").search(np.ascontiguousarray(queries), k)[1]
        found = self.search(space, queries, k)[1]
        return float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]))

    def write(self, folder: Path) -> None:
        """Writes the index; `index.json` comes last and makes the folder complete."""
        import faiss

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.json").unlink(missing_ok=True)
        for name, index in self.indexes.items():
            faiss.write_index(index, str(folder / f"{name}.faiss"))
        content = {"kind": self.kind, "source": self.source, "spaces": list(self.indexes)}
        temporary = folder / "index.json.tmp"
        temporary.write_text(json.dumps(content, indent=1))
        os.replace(temporary, folder / "index.json")

    @classmethod
    def read(cls, folder: Path, source: str) -> "NeighbourIndex":
        """Reads what `write` wrote.

        Args:
            folder: of the index.
            source: digest of the weights and data whose embeddings will be asked for.

        Raises:
            DataError: the folder holds no complete index, a damaged one, or one of another source.
        """
        import faiss

        if not (folder / "index.json").is_file():
            raise DataError(
                "not an index", path=folder, expected="a folder that the verb index made"
            )
        try:
            saved = json.loads((folder / "index.json").read_text())
            index = cls.__new__(cls)
            index.kind, index.source = saved["kind"], saved["source"]
            index.indexes = {
                name: faiss.read_index(str(folder / f"{name}.faiss")) for name in saved["spaces"]
            }
        except (ValueError, KeyError, RuntimeError) as error:
            raise DataError(
                f"a damaged index ({str(error).splitlines()[0][:200]})",
                path=folder,
                fix="build it again with the verb index",
            ) from error
        if index.source != source:
            raise DataError(
                "an index of other weights, or of other data, than these",
                path=folder,
                fix="build it again with the verb index, this checkpoint and these data",
            )
        return index


def _build(vectors: Vectors, kind: Kind) -> Any:  # noqa: ANN401 - FAISS has no types
    import faiss

    n, dim = vectors.shape
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    index: Any
    if kind == "exact":
        index = faiss.IndexFlatIP(dim)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 200, 128
    elif kind == "ivf":
        # FAISS wants 39 vectors or more to place a centre.
        lists = max(1, min(round(4 * n**0.5), n // 39))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = min(lists, max(8, lists // 16))
        index.train(vectors)
    else:
        raise DataError(f"index_kind={kind}", expected="exact, hnsw or ivf")
    index.add(vectors)
    return index
