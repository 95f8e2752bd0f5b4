"""CIFAR-100's superclasses, and a method's difference in those where the noise lets one read it."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from contrasts import SeedNoise
from noise import ALPHA, likely_real

# CIFAR-100's superclasses and the superclass of each of its classes in alphabetical order, the order of its labels.
# Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; tests compare it with the data's
# columns fine_label and coarse_label.
SUPERCLASSES = (
    "aquatic mammals", "fish", "flowers", "food containers", "fruit and vegetables", "household electrical devices",
    "household furniture", "insects", "large carnivores", "large man-made outdoor things", "large natural outdoor scenes",
    "large omnivores and herbivores", "medium mammals", "non-insect invertebrates", "people", "reptiles", "small mammals",
    "trees", "vehicles 1", "vehicles 2",
)  # fmt: skip
SUPERCLASS_OF = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip


def of_superclass(index):
    """The measure of one superclass for SeedNoise: (net, seeds) -> mean top-1 of its five classes, an entry per seed."""
    members = np.equal(SUPERCLASS_OF, index)
    return lambda net, seeds: np.array([np.mean(np.array(net.runs[s]["per_class_top1"])[members]) for s in seeds])


@dataclass
class SuperclassMap:
    """Differences from the baseline in points, (n_methods, 20), and which of them stand out of the noise."""

    archs: list
    differences: np.ndarray
    readable: np.ndarray

    @property
    def sentence(self):
        """How many cells can be read, and how many of those may still be noise."""
        n_readable, n_cells = int(self.readable.sum()), self.readable.size
        if not n_readable:
            return f"No superclass of any method stands out of the noise ({n_cells} cells), so none is shown."
        return (
            f"{n_readable} of {n_cells} cells stand out of the noise; about {ALPHA:.0%} of these, {max(1, round(ALPHA * n_readable))}, "
            "may be noise all the same (Benjamini and Hochberg 1995). The other cells cannot be told from 0 and are left empty."
        )


def superclass_map(results):
    """Results -> SuperclassMap of the stable methods; None unless the rows are of CIFAR-100 with two seeds or more."""
    compared = [result for result in results.stable if len(result.seeds) > 1 and not result.too_early]
    if results.row["dataset"] != "cifar100" or not compared:
        return None
    noise_of = cache(lambda index, seeds: SeedNoise(results.nets, seeds, of_superclass(index)))
    estimates = [
        [noise_of(c, tuple(r.seeds)).estimate((r.net, 1), (r.reference, -1)) for c in range(len(SUPERCLASSES))]
        for r in compared
    ]
    differences, ps = (np.array([[getattr(e, name) for e in row] for row in estimates]) for name in ("mean", "p"))
    return SuperclassMap([r.net.arch for r in compared], differences, likely_real(ps.ravel()).reshape(ps.shape))


def superclass_table(found):
    """A row per superclass and a column per method; cells that could be noise are empty. None where none can be read."""
    if found is None or not found.readable.any():
        return None
    cells = np.where(found.readable, np.char.mod("%+.1f", found.differences), "")
    return [
        ["superclass", *(arch.removesuffix("_resnet") for arch in found.archs)],
        *([name, *row] for name, row in zip(SUPERCLASSES, cells.T.tolist(), strict=True)),
    ]
