"""CIFAR-100's superclasses, and a method's difference in each."""

import numpy as np

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


def superclass_differences(result):
    """A method's top-1 minus its baseline's in each of CIFAR-100's superclasses, mean over the shared seeds: (20,)."""
    both = (result.net, result.reference)
    net, reference = (np.mean([n.runs[seed]["per_class_top1"] for seed in result.seeds], axis=0) for n in both)
    return np.array([(net - reference)[np.equal(SUPERCLASS_OF, c)].mean() for c in range(len(SUPERCLASSES))])


def superclass_table(results):
    """A row per superclass, a column per method; None unless the rows are of CIFAR-100."""
    compared = [result for result in results.stable if result.seeds]
    if results.row["dataset"] != "cifar100" or not compared:
        return None
    columns = [[f"{difference:+.1f}" for difference in superclass_differences(result)] for result in compared]
    header = ["superclass", *(result.net.arch for result in compared)]
    return [header, *([name, *row] for name, *row in zip(SUPERCLASSES, *columns, strict=True))]
