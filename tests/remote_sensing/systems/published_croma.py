"""CROMA's encoders as published, written out plainly under the published names."""

import itertools
import math

import torch
from torch import Tensor, nn


def published_weights(dim: int, depth: int, patch: int, bands: dict[str, int]) -> dict[str, dict]:
    """Random weights in the layout of the authors' file; `bands` of `s1` and `s2`."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    def linear(name: str, inputs: int, outputs: int) -> dict[str, Tensor]:
        return {f"{name}.weight": random(outputs, inputs), f"{name}.bias": random(outputs)}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + random(dim), f"{name}.bias": random(dim)}

    def layers(prefix: str, count: int, crossed: bool) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for n in range(count):
            found |= norm(f"{prefix}layers.{n}.0.input_norm")
            found[f"{prefix}layers.{n}.0.to_qkv.weight"] = random(3 * dim, dim)
            found |= linear(f"{prefix}layers.{n}.0.to_out", dim, dim)
            if crossed:
                found |= norm(f"{prefix}layers.{n}.1.input_norm")
                found |= {f"{prefix}layers.{n}.1.to_{p}.weight": random(dim, dim) for p in "qkv"}
                found |= linear(f"{prefix}layers.{n}.1.to_out", dim, dim)
            last = f"{prefix}layers.{n}.{1 + crossed}"
            found |= norm(f"{last}.input_norm")
            found |= linear(f"{last}.net.0", dim, 4 * dim) | linear(f"{last}.net.3", 4 * dim, dim)
        return found | norm(f"{prefix}norm_out")

    def encoder(sensor: str, count: int) -> dict[str, Tensor]:
        values = bands[sensor] * patch**2
        return linear("linear_input", values, dim) | layers("transformer.", count, False)

    def pool() -> dict[str, Tensor]:
        return norm("0") | linear("1", dim, 4 * dim) | linear("3", 4 * dim, dim)

    return {
        "s1_encoder": encoder("s1", depth // 2),
        "s1_GAP_FFN": pool(),
        "s2_encoder": encoder("s2", depth),
        "s2_GAP_FFN": pool(),
        "joint_encoder": layers("", depth // 2, True),
    }


class Plain:
    """What these weights make of images, with whole tables of the bias.

    Args:
        weights: of `published_weights`.
        patch: side of a patch.
        heads: a power of two.
    """

    def __init__(self, weights: dict[str, dict], patch: int, heads: int) -> None:
        self.weights, self.patch, self.heads = weights, patch, heads

    def __call__(self, radar: Tensor, optical: Tensor) -> dict[str, Tensor]:
        """Tokens of the sensors, joint tokens, and the vectors of all three."""
        rows, columns = (size // self.patch for size in radar.shape[2:])
        cells = list(itertools.product(range(rows), range(columns)))
        distance = torch.tensor([[math.dist(a, b) for b in cells] for a in cells])
        slopes = torch.tensor([2 ** (-8 * (h + 1) / self.heads) for h in range(self.heads)])
        bias = -slopes[:, None, None] * distance
        tokens = {}
        for name, sensor, images in (("radar", "s1", radar), ("optical", "s2", optical)):
            w = self.weights[f"{sensor}_encoder"]
            patches = torch.stack(
                [
                    images[
                        :,
                        :,
                        i * self.patch : (i + 1) * self.patch,
                        j * self.patch : (j + 1) * self.patch,
                    ].flatten(1)
                    for i, j in cells
                ],
                dim=1,
            )
            x = patches @ w["linear_input.weight"].T + w["linear_input.bias"]
            tokens[name] = self._layers(w, "transformer.", x, None, bias)
        tokens["joint"] = self._layers(
            self.weights["joint_encoder"], "", tokens["radar"], tokens["optical"], bias
        )
        vectors = {"joint": tokens["joint"].mean(1)}
        for name, sensor in (("radar", "s1"), ("optical", "s2")):
            w = self.weights[f"{sensor}_GAP_FFN"]
            x = _norm(w, "0", tokens[name].mean(1))
            x = nn.functional.gelu(x @ w["1.weight"].T + w["1.bias"])
            vectors[name] = x @ w["3.weight"].T + w["3.bias"]
        return {f"{name}_tokens": of for name, of in tokens.items()} | vectors

    def _layers(
        self, w: dict[str, Tensor], prefix: str, x: Tensor, other: Tensor | None, bias: Tensor
    ) -> Tensor:
        count = len({name for name in w if name.endswith("0.input_norm.weight")})
        for n in range(count):
            first = f"{prefix}layers.{n}.0"
            normed = _norm(w, f"{first}.input_norm", x)
            q, k, v = (normed @ part.T for part in w[f"{first}.to_qkv.weight"].chunk(3))
            x = x + self._attended(w, first, q, k, v, bias)
            if other is not None:
                second = f"{prefix}layers.{n}.1"
                theirs = _norm(w, f"{second}.input_norm", other)
                q = _norm(w, f"{second}.input_norm", x) @ w[f"{second}.to_q.weight"].T
                k, v = (theirs @ w[f"{second}.to_{part}.weight"].T for part in "kv")
                x = x + self._attended(w, second, q, k, v, bias)
            last = f"{prefix}layers.{n}.{1 if other is None else 2}"
            hidden = _norm(w, f"{last}.input_norm", x)
            hidden = nn.functional.gelu(
                hidden @ w[f"{last}.net.0.weight"].T + w[f"{last}.net.0.bias"]
            )
            x = x + hidden @ w[f"{last}.net.3.weight"].T + w[f"{last}.net.3.bias"]
        return _norm(w, f"{prefix}norm_out", x)

    def _attended(
        self, w: dict[str, Tensor], layer: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor
    ) -> Tensor:
        made = []
        for head, (a, b, c) in enumerate(
            zip(*(x.chunk(self.heads, -1) for x in (q, k, v)), strict=True)
        ):
            logits = a @ b.transpose(1, 2) / math.sqrt(a.shape[-1]) + bias[head]
            made.append(logits.softmax(-1) @ c)
        return torch.cat(made, -1) @ w[f"{layer}.to_out.weight"].T + w[f"{layer}.to_out.bias"]


def _norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])
