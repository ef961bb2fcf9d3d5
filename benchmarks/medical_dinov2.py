"""The whole step of DINOv2 as UNI takes it, against one put together from the parts of `lightly`.

    python -m benchmarks.medical_dinov2 [--batch 32] [--repeats 3]

Both at equal sizes on the same images: two large crops of 64 pixels and four small ones of 32, a
vision transformer of width 96 with 4 blocks and patches of 8, two heads of 1,024 prototypes,
targets by a moving centre, AdamW, an exponential moving average. `lightly` makes crops of one PIL
image after the other, as its transform does. Timed are the crops with the masks, then all the rest.
"""

import argparse
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peer
from core.augment.draws import Draws
from core.augment.multi_crop import MultiCrop
from core.report import print_table
from medical.systems.uni import UNI

LARGE, SMALL, N_SMALL, PATCH, DIM, DEPTH, HEADS = 64, 32, 4, 8, 96, 4, 3
PROTOTYPES, HIDDEN, BOTTLENECK = 1024, 256, 64
RATE, DECAY, MOMENTUM, TEMPERATURE = 1e-3, 0.04, 0.99, 0.04

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Here:
    """UNI, with crops and masks of a batch at once."""

    def __init__(self) -> None:
        sizes = {"image_size": LARGE, "patch": PATCH, "dim": DIM, "depth": DEPTH, "heads": HEADS}
        head = {"hidden_dim": HIDDEN, "bottleneck_dim": BOTTLENECK, "n_prototypes": PROTOTYPES}
        self.system = UNI(**sizes, **head, drop_path=0.0, balance="centre")
        self.crops = MultiCrop(LARGE, SMALL, N_SMALL)
        student = self.system.student.parameters()
        self.optimizer = torch.optim.AdamW(student, RATE, weight_decay=DECAY)

    def views(self, images: Pixels) -> dict[str, Tensor]:
        """Crops, and which patches are hidden."""
        draws = Draws(0, len(images), slice(0, len(images)), torch.device("cpu"))
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
        large, small = self.crops(pixels, draws)
        batch = {"views": large, "local_views": small}
        return batch | self.system.draw(batch, draws)

    def step(self, batch: dict[str, Tensor]) -> None:
        """Losses, gradients, the student's and the teacher's new weights."""
        self.optimizer.zero_grad()
        self.system.objective(batch)["loss"].backward()
        self.optimizer.step()
        self.system.update_teachers(0, 100)


class Lightly:
    """The same of `lightly`'s parts."""

    def __init__(self) -> None:
        loss, modules = peer("lightly.loss"), peer("lightly.models.modules")
        self.utils, transforms = peer("lightly.models.utils"), peer("lightly.transforms")

        def network() -> nn.ModuleList:
            vit = VisionTransformer(
                LARGE, PATCH, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=0,
                init_values=1e-5, dynamic_img_size=True,
            )  # fmt: skip
            encoder = modules.MaskedVisionTransformerTIMM(vit, antialias=False)
            heads = [modules.DINOProjectionHead(DIM, HIDDEN, BOTTLENECK, PROTOTYPES) for _ in "12"]
            return nn.ModuleList([encoder, *heads])

        self.student, self.teacher = network(), network()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        constant = {"teacher_temp": TEMPERATURE, "output_dim": PROTOTYPES}
        self.dino = loss.DINOLoss(**constant, warmup_teacher_temp=TEMPERATURE)
        self.ibot, self.koleo = loss.IBOTPatchLoss(**constant), loss.KoLeoLoss()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), RATE, weight_decay=DECAY)
        self.transform = transforms.DINOTransform(
            global_crop_size=LARGE,
            global_crop_scale=(0.32, 1.0),
            local_crop_size=SMALL,
            local_crop_scale=(0.05, 0.32),
            n_local_views=N_SMALL,
        )

    def views(self, images: Pixels) -> dict[str, Tensor]:
        """Crops of one image after the other, and which patches are hidden."""
        crops = zip(*(self.transform(Image.fromarray(image)) for image in images), strict=True)
        stacked = [torch.stack(of) for of in crops]
        side = LARGE // PATCH
        mask = self.utils.random_block_mask(size=(2 * len(images), side, side))
        views = {"views": torch.cat(stacked[:2]), "local_views": torch.cat(stacked[2:])}
        return views | {"mask": mask}

    def step(self, batch: dict[str, Tensor]) -> None:
        """Losses, gradients, the student's and the teacher's new weights."""
        encoder, head, patch_head = self.student
        mask = batch["mask"]
        # Before the patches stands the class token, which is never hidden.
        hidden = torch.cat([mask.new_zeros(len(mask), 1), mask.flatten(1)], 1)
        with torch.no_grad():
            teacher_encoder, teacher_head, teacher_patch_head = self.teacher
            tokens = teacher_encoder.encode(batch["views"])
            targets = teacher_head(tokens[:, 0])
            patch_targets = teacher_patch_head(tokens[hidden])
        tokens = encoder.encode(batch["views"], mask=hidden)
        classes = tokens[:, 0]
        small = encoder.encode(batch["local_views"])[:, 0]
        logits = [*head(classes).chunk(2), *head(small).chunk(N_SMALL)]
        loss = self.dino(list(targets.chunk(2)), logits, teacher_temp=TEMPERATURE)
        patches = patch_head(tokens[hidden])
        loss = loss + self.ibot(patch_targets, patches, mask, teacher_temp=TEMPERATURE)
        loss = loss + 0.1 * sum(self.koleo(crop) for crop in classes.chunk(2))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.utils.update_momentum(self.student, self.teacher, MOMENTUM)


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if peer("lightly.loss") is None:
        return
    images = np.random.default_rng(0).integers(
        0, 256, (arguments.batch, LARGE, LARGE, 3), dtype=np.uint8
    )
    torch.manual_seed(0)
    racers = {"here": Here(), "lightly": Lightly()}
    batches = {name: racer.views(images) for name, racer in racers.items()}
    for name, racer in racers.items():
        racer.step(batches[name])
    crops = interleaved(
        {name: lambda r=racer: r.views(images) for name, racer in racers.items()},
        arguments.repeats,
    )
    steps = interleaved(
        {n: lambda n=n, r=racer: r.step(batches[n]) for n, racer in racers.items()},
        arguments.repeats,
    )
    both = {n: [a + b for a, b in zip(crops[n], steps[n], strict=True)] for n in racers}
    parts = {"crops and masks": crops, "the rest of the step": steps, "both": both}
    print_table(
        [
            {"seconds": part}
            | {name: median_and_spread(of) for name, of in times.items()}
            | {"lightly / here": paired_ratio(times["lightly"], times["here"])}
            for part, times in parts.items()
        ],
        f"DINOv2, batch {arguments.batch}, {torch.get_num_threads()} thread(s)",
    )


if __name__ == "__main__":
    main()
