"""The 8 x 8 digits of scikit-learn as a sequence of tasks of some classes each."""

from pathlib import Path

import numpy as np


def write_digit_tasks(path: str | Path, seed: int = 0, n_tasks: int = 5) -> None:
    """Writes `digit_tasks.npz`: 1300 training, 100 validation and 397 test images.

    Args:
        path: the folder.
        seed: of the split and of which digits are in which task.
        n_tasks: tasks, from 1 to 10, among which the digits are shared in a random order;
            `label_task` numbers them from 0.
    """
    from sklearn.datasets import load_digits

    random = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    order = random.permutation(len(images))
    task_of = np.empty(10, np.int64)
    task_of[random.permutation(10)] = np.arange(10) * n_tasks // 10
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "digit_tasks.npz",
        image=images[order].reshape(-1, 1, 8, 8).astype(np.float32) / 16,
        label=labels[order].astype(np.int64),
        label_task=task_of[labels[order]],
        split=np.repeat([0, 1, 2], [1300, 100, len(images) - 1400]),
        id=order,
    )
