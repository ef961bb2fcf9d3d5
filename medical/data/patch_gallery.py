"""Pictures of patches: what a search found, beside what was asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from core.data.encoded_images import EncodedImage
from medical.data.patches import Patches

_SIDE, _TEXT, _COLUMNS = 1.5, 0.55, 6  # inches; pictures in a row
_SAME, _OTHER = "#1B7837", "#B2182B"


def draw_gallery(
    data: Patches, query: str, rows: Sequence[dict[str, Any]], file: str | Path
) -> None:
    """The query first, then what was found, nearest first; frames say whether classes agree.

    Patches of slides that have no classes of their own have those of their slides.

    Args:
        data: the patches.
        query: `image:ID` or `file:PATH`.
        rows: what the search returned: `id`, `cosine`.
        file: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind, _, name = query.partition(":")
    row_of = {of: row for row, of in enumerate(data.ids)}
    if kind == "file":
        path = Path(name)
        encoded = EncodedImage(name, name, path, 0, path.stat().st_size, None, None)
        asked, label = encoded.decoded(None).permute(1, 2, 0).numpy(), None
    else:
        asked, label = _pixels(data, row_of[name]), _label(data, row_of[name])
    shown = [(asked, f"query\n{label or Path(name).name}", "black")]
    for found in rows:
        row = row_of[found["id"]]
        own = _label(data, row)
        colour = "#888888" if None in (label, own) else _SAME if own == label else _OTHER
        lines = [f"{found['rank']}.  cosine {found['cosine']:.3f}", own]
        lines += [data.patients[row]] if data.patients else []
        shown.append((_pixels(data, row), "\n".join(filter(None, lines)), colour))
    n_rows = -(-len(shown) // _COLUMNS)
    columns = min(_COLUMNS, len(shown))
    figure = Figure(
        figsize=((_SIDE + 0.1) * columns + 0.2, (_SIDE + _TEXT) * n_rows + 0.1), dpi=110
    )
    FigureCanvasAgg(figure)
    for place, (pixels, title, colour) in enumerate(shown):
        axes = figure.add_subplot(n_rows, columns, place + 1)
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(title, fontsize=7, color=colour)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(colour)
            spine.set_linewidth(2.5)
    figure.tight_layout()
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _pixels(data: Patches, row: int) -> UInt8[np.ndarray, "height width 3"]:
    rows = data.splits["train"].new_tensor([row])
    image = data.inputs["image"].index_select(0, rows)[0]
    return image.permute(1, 2, 0).cpu().numpy()


def _label(data: Patches, row: int) -> str | None:
    for kind in (kind for kind in ("label", "slide") if kind in data.labels):
        number = int(data.labels[kind][row])
        names = data.classes.get(kind)
        if number >= 0:
            return names[number] if names else str(number)
    return None
