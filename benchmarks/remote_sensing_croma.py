"""CROMA on the CPU: pre-training steps, and the reading of large images.

    python -m benchmarks.remote_sensing_croma

Ours is raced against the same maths written out in two plain ways: as published (tables of the bias
between all patches, repeated for every chip and gathered; only kept tokens in the encoders), and
with all tokens in the encoders, the removed ones masked as keys. All three have the same weights,
the same masks and, as is checked, the same loss. torchgeo's port, where it is installed, joins the
race of the encoders with the same weights.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peer
from core.augment.draws import Draws
from core.encoders.attention import Attention
from core.losses.mae import random_masking
from core.report import print_table
from remote_sensing.systems.croma import CROMA, OPTICAL, RADAR, SENSORS, reconstruction_loss

REPEATS = 5
TINY = {"patch": 4, "dim": 48, "depth": 4, "heads": 4, "decoder_dim": 32, "decoder_heads": 4}
SMALL = {"patch": 8, "dim": 192, "depth": 4, "heads": 8, "decoder_dim": 128}
# Name -> arguments, side of the chips, optical bands, batch.
STEPS: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "24 px, 48 wide, batch 128": (TINY, 24, 6, 128),
    "120 px, 192 wide, batch 16": (SMALL, 120, 12, 16),
}
SIDES = (120, 240, 504)

Batch = dict[str, Tensor]
Ways = Literal["published", "masked"]


def build(arguments: dict[str, Any], side: int, bands: int) -> CROMA:
    """A system with the same weights at every call."""
    torch.manual_seed(0)
    return CROMA({OPTICAL: [bands, side, side], RADAR: [2, side, side]}, **arguments)


def table(system: CROMA, grid: tuple[int, int]) -> Tensor:
    """(heads, N, N) bias of all patches."""
    cells = torch.cartesian_prod(*(torch.arange(n).float() for n in grid))
    slopes: Tensor = system.cross.positions.slopes
    return -slopes[:, None, None] * torch.cdist(cells, cells)


def attention(layer: Attention, x: Tensor, context: Tensor, bias: Tensor) -> Tensor:
    """The logits as a whole, then softmax."""
    queries, keys, values = layer.qkv.weight.chunk(3)
    q, k, v = (
        (of @ weight.T).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        for of, weight in ((x, queries), (context, keys), (context, values))
    )
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + bias
    made = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
    out: Tensor = layer.out(made)
    return out


def plain_encoder(system: CROMA, name: str, x: Tensor, bias: Tensor) -> Tensor:
    """Tokens of one sensor."""
    encoder = system.encoders[name]
    for block in encoder.blocks:
        normed = block.norm1(x)
        x = x + attention(block.attention, normed, normed, bias)
        x = x + block.feedforward(block.norm2(x))
    tokens: Tensor = encoder.norm(x)
    return tokens


def plain_cross(system: CROMA, radar: Tensor, optical: Tensor, biases: list[Tensor]) -> Tensor:
    """Joint tokens; the biases of the attention within and across."""
    for block in system.cross.blocks:
        normed = block.norm_within(radar)
        radar = radar + attention(block.within, normed, normed, biases[0])
        normed = block.norm_across(radar)
        radar = radar + attention(block.across, normed, block.norm_across(optical), biases[1])
        radar = radar + block.feedforward(block.norm(radar))
    joint: Tensor = system.cross.norm(radar)
    return joint


def plain_loss(system: CROMA, batch: Batch, way: Ways) -> Tensor:
    """The objective, see above."""
    grid = system.encoders[OPTICAL].patches.grid(batch[OPTICAL])
    full, n_patches, rows = table(system, grid), math.prod(grid), len(batch[OPTICAL])
    kept, mask, restore, tokens, patches = {}, {}, {}, {}, {}
    for name in SENSORS:
        kept[name], mask[name], restore[name] = random_masking(
            batch[f"noise/{name}"], system.mask_ratio
        )
        patches[name] = system.encoders[name].patches.patchify(batch[name])
        tokens[name] = system.encoders[name].patches.projection(patches[name])

    def rows_of(x: Tensor, name: str) -> Tensor:
        return x.gather(1, kept[name][..., None].expand(-1, -1, x.shape[-1]))

    def bias(queries: str, keys: str) -> Tensor:
        if way == "masked":
            removed = mask[keys].bool()[:, None, None]
            return full[None].expand(rows, -1, -1, -1).masked_fill(removed, -torch.inf)
        whole = full[None].repeat(rows, 1, 1, 1)
        of_queries = kept[queries][:, None, :, None].expand(-1, len(full), -1, n_patches)
        some = whole.gather(2, of_queries)
        of_keys = kept[keys][:, None, None].expand(-1, len(full), some.shape[2], -1)
        return some.gather(3, of_keys)

    if way == "published":
        tokens = {name: rows_of(of, name) for name, of in tokens.items()}
    tokens = {
        name: plain_encoder(system, name, of, bias(name, name)) for name, of in tokens.items()
    }
    across = bias(RADAR, OPTICAL)
    within = across
    if way == "masked":
        # The published self-attention: the j-th kept radar token has the bias of the j-th optical.
        places = kept[RADAR].new_zeros(rows, n_patches)
        places.scatter_(1, kept[RADAR], kept[OPTICAL])
        at = places[:, None, None].expand(-1, len(full), n_patches, -1)
        within = full[None].expand(rows, -1, -1, -1).gather(3, at)
        within = within.masked_fill(mask[RADAR].bool()[:, None, None], -torch.inf)
    joint = plain_cross(system, tokens[RADAR], tokens[OPTICAL], [within, across])
    if way == "masked":
        joint = rows_of(joint, RADAR)
        tokens = {name: rows_of(of, name) for name, of in tokens.items()}
    unit = {}
    for name, of in tokens.items():
        projected = system.projections[name](system.pools[name](of.mean(1)))
        unit[name] = torch.nn.functional.normalize(projected, dim=1)
    logits, target = system.scale() * unit[OPTICAL] @ unit[RADAR].T, torch.arange(rows)
    contrast = torch.nn.functional.cross_entropy(logits, target)
    contrast = (contrast + torch.nn.functional.cross_entropy(logits.T, target)) / 2
    predicted = system.decoder(joint, restore[RADAR], grid)
    masks = (mask[name] for name in SENSORS)
    return contrast + reconstruction_loss(predicted, patches[OPTICAL], patches[RADAR], *masks)


def stepper(system: CROMA, loss: Callable[[CROMA, Batch], Tensor]) -> Callable[[Batch], float]:
    """Forward, backward and the optimizer's step, on weights of its own."""
    own = copy.deepcopy(system)
    optimizer = torch.optim.AdamW(own.parameter_groups(), lr=1e-4, fused=True)

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        value = loss(own, batch)
        value.backward()
        optimizer.step()
        return float(value.detach())

    return step


class Largest(TorchDispatchMode):
    """Keeps the bytes of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.bytes = max(self.bytes, made.numel() * made.element_size())
        return made


def largest_mib(work: Callable[[], object]) -> str:
    """MiB of the largest tensor in one call."""
    with Largest() as seen:
        work()
    return f"{seen.bytes / 2**20:.1f}"


def race_steps() -> None:
    """Prints a table of steps for each size."""
    for title, (arguments, side, bands, rows) in STEPS.items():
        system = build(arguments, side, bands)
        batch = {OPTICAL: torch.rand(rows, bands, side, side)}
        batch[RADAR] = torch.rand(rows, 2, side, side)
        batch |= system.draw(batch, Draws(0, rows, slice(0, rows), torch.device("cpu")))
        losses: dict[str, Callable[[CROMA, Batch], Tensor]] = {
            "ours": lambda s, b: s.objective(b)["loss"],
            "tables gathered, as published": lambda s, b: plain_loss(s, b, "published"),
            "all tokens, masked": lambda s, b: plain_loss(s, b, "masked"),
        }
        steps = {name: stepper(system, loss) for name, loss in losses.items()}
        values = {name: step(batch) for name, step in steps.items()}
        assert max(values.values()) - min(values.values()) < 1e-3, values
        times = interleaved({n: partial(step, batch) for n, step in steps.items()}, REPEATS)
        print_table(
            [
                {
                    "step": name,
                    "ms": median_and_spread([1000 * t for t in seconds]),
                    "times ours": paired_ratio(seconds, times["ours"]),
                    "largest tensor, MiB": largest_mib(partial(steps[name], batch)),
                }
                for name, seconds in times.items()
            ],
            f"pre-training step, {title}",
        )


@torch.no_grad()
def race_sizes() -> None:
    """Prints a table of joint embeddings by the side of the image."""
    system = build(SMALL, 120, 12).eval()
    rows = []
    for side in SIDES:
        batch = {OPTICAL: torch.rand(1, 12, side, side), RADAR: torch.rand(1, 2, side, side)}
        grid = system.encoders[OPTICAL].patches.grid(batch[OPTICAL])

        def plain(batch: Batch = batch, grid: tuple[int, int] = grid) -> Tensor:
            bias = table(system, grid)[None]
            tokens = {}
            for name in SENSORS:
                cut = system.encoders[name].patches
                x = cut.projection(cut.patchify(batch[name]))
                tokens[name] = plain_encoder(system, name, x, bias)
            return plain_cross(system, tokens[RADAR], tokens[OPTICAL], [bias, bias]).mean(1)

        def ours(batch: Batch = batch) -> Tensor:
            return system.embed(batch)["joint"]

        torch.testing.assert_close(ours(), plain(), rtol=1e-3, atol=1e-3)
        times = interleaved({"ours": ours, "plain": plain}, 3)
        rows.append(
            {
                "px": side,
                "patches": math.prod(grid),
                "ours, s": median_and_spread(times["ours"]),
                "patches/s": f"{math.prod(grid) / min(times['ours']):.0f}",
                "whole table, times ours": paired_ratio(times["plain"], times["ours"]),
                "largest tensor, MiB": largest_mib(ours),
                "with whole table": largest_mib(plain),
            }
        )
    print_table(rows, "joint embedding of one image, 192 wide, 8 heads")


@torch.no_grad()
def race_port() -> None:
    """Prints the forward of all encoders at base size beside torchgeo's, with the same weights."""
    port = peer("torchgeo.models.croma")
    if port is None:
        return
    from tempfile import NamedTemporaryFile

    from remote_sensing.systems.croma_weights import read_published

    torch.manual_seed(0)
    theirs = port.CROMA().eval()
    names = ("s1_encoder", "s1_GAP_FFN", "s2_encoder", "s2_GAP_FFN", "joint_encoder")
    with NamedTemporaryFile(suffix=".pt") as file:
        torch.save({name: getattr(theirs, name).state_dict() for name in names}, file.name)
        system = read_published(file.name).eval()
    batch = {OPTICAL: torch.rand(4, 12, 120, 120), RADAR: torch.rand(4, 2, 120, 120)}
    works = {
        "ours": lambda: system.embed(batch)["joint"],
        "torchgeo": lambda: theirs(x_sar=batch[RADAR], x_optical=batch[OPTICAL])["joint_GAP"],
    }
    first = {name: work() for name, work in works.items()}
    gap = float((first["ours"] - first["torchgeo"]).abs().max())
    times = interleaved(works, 3)
    print_table(
        [
            {
                "by": name,
                "s": median_and_spread(seconds),
                "times ours": paired_ratio(seconds, times["ours"]),
            }
            for name, seconds in times.items()
        ],
        f"joint embedding of 4 chips of 120 px, base size; largest difference {gap:.1e}",
    )


def main() -> None:
    """All races."""
    race_steps()
    race_sizes()
    race_port()


if __name__ == "__main__":
    main()
