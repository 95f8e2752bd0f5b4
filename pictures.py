"""Two networks on the test images: where they err, how confident they are, and where they differ. Read from pair.npz."""

import json
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np
from matplotlib.colors import PowerNorm

from flags import one_line
from rows import SUPERCLASS_OF, SUPERCLASSES, Net, key_of, refuse

FIELDS = ("archs", "seeds", "settings", "dataset", "classes", "targets", "probabilities", "shown", "images")
N_BINS = 15  # of confidence, as in the runs' expected calibration error
MOST_GROUPS = 20  # groups of classes that a confusion matrix can show


@dataclass
class Pair:
    """Two networks' probabilities for N test images."""

    names: tuple  # of the two networks, with their seeds
    dataset: str
    classes: list
    targets: np.ndarray  # (N,)
    probabilities: np.ndarray  # (2, N, classes)
    shown: np.ndarray  # (M,) the images on which they differ most
    images: np.ndarray  # (M, H, W, 3) uint8

    @property
    def predicted(self):
        """(2, N)"""
        return self.probabilities.argmax(-1)

    @property
    def correct(self):
        """(2, N)"""
        return self.predicted == self.targets

    @property
    def sentence(self):
        """How often the two agree, and which is right when they do not."""
        first, second = self.correct
        agree = np.mean(self.predicted[0] == self.predicted[1])
        alone = (int((first & ~second).sum()), int((second & ~first).sum()))
        return (
            f"{self.names[0]} and {self.names[1]} agree on {agree:.1%} of {len(self.targets):,} test images. "
            f"On {alone[0]:,} images only the first is right, on {alone[1]:,} only the second. This is one run of each; other seeds differ."
        )


def read_pair(path, results):
    """pair.npz beside the runs -> Pair; None without the file. Refuses a damaged file, or one of runs that are not here."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in FIELDS}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        refuse(f"{path} cannot be used: {one_line(error)}; write it again with pair.py")
    n_images, n_classes = len(arrays["targets"]), len(arrays["classes"])
    if arrays["probabilities"].shape != (2, n_images, n_classes) or len(arrays["shown"]) != len(arrays["images"]):
        refuse(f"{path} cannot be used: its arrays do not fit each other; write it again with pair.py")
    nets = {key_of(net.arch, net.settings): net for net in results.nets}
    names = []
    for arch, settings, seed in zip(arrays["archs"], arrays["settings"], arrays["seeds"], strict=True):
        knobs = json.loads(str(settings))
        net = nets.get(key_of(str(arch), knobs))
        if net is None or int(seed) not in net.runs:
            refuse(
                f"{path} is of {Net(str(arch), knobs).name} with seed {seed}, and that run is not here: write it again with pair.py"
            )
        names.append(f"{net.name} (seed {seed})")
    # as matplotlib draws them: names need not be UTF-8, and two $ would begin a formula
    classes = [str(c).encode(errors="backslashreplace").decode().replace("$", r"\$") for c in arrays["classes"]]
    return Pair(tuple(names), str(arrays["dataset"]), classes, arrays["targets"],
                arrays["probabilities"].astype(np.float32), arrays["shown"], arrays["images"])  # fmt: skip


def groups_of(pair):
    """(names, the group of each class): CIFAR-100's superclasses, or the classes themselves if they are few; else None."""
    if pair.dataset == "cifar100":
        return SUPERCLASSES, np.array(SUPERCLASS_OF)
    if len(pair.classes) <= MOST_GROUPS:
        return tuple(pair.classes), np.arange(len(pair.classes))
    return None


def confusion(predicted, targets, groups):
    """Percent of each true group's images predicted as each group: (groups, groups), one row per true group."""
    n_groups = groups.max() + 1
    counts = np.bincount(groups[targets] * n_groups + groups[predicted], minlength=n_groups**2).reshape(
        n_groups, n_groups
    )
    return 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)


def reliability(probabilities, targets):
    """(confidence, accuracy, n) of each bin of confidence that has images; the first two are means over its images."""
    confidence, correct = probabilities.max(-1), probabilities.argmax(-1) == targets
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    n = np.bincount(bins, minlength=N_BINS)
    sums = [np.bincount(bins, weights=values, minlength=N_BINS) for values in (confidence, correct)]
    confidences, accuracies = (values[n > 0] / n[n > 0] for values in sums)
    return confidences, accuracies, n[n > 0]


def draw_confusion(figure, pair):
    """Both confusion matrices side by side."""
    names, groups = groups_of(pair)
    axes = figure.subplots(1, 2, sharey=True)
    matrices = [confusion(predicted, pair.targets, groups) for predicted in pair.predicted]
    for ax, matrix, name in zip(axes, matrices, pair.names, strict=True):
        image = ax.imshow(matrix, cmap="Blues", norm=PowerNorm(0.5, 0, 100))  # so that small confusions show too
        ax.set_title(name, fontsize="medium")
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize="x-small")
        ax.set_yticks(range(len(names)), names, fontsize="x-small")
        ax.set_xlabel("predicted", fontsize="small")
    axes[0].set_ylabel("true", fontsize="small")
    figure.colorbar(image, ax=axes, shrink=0.7, label="% of the true group's images")


def draw_reliability(figure, pair):
    """Accuracy against confidence; below the diagonal, a network is overconfident."""
    for ax, probabilities, name in zip(figure.subplots(1, 2, sharey=True), pair.probabilities, pair.names, strict=True):
        confidence, accuracy, n = reliability(probabilities, pair.targets)
        ece = 100 * np.sum(n * np.abs(confidence - accuracy)) / n.sum()
        ax.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":")
        ax.bar(confidence, accuracy, width=0.8 / N_BINS, color="#56B4E9")
        ax.plot(confidence, accuracy, color="#0072B2", marker="o", markersize=5, linewidth=1.5)
        ax.set_title(f"{name}: ECE {ece:.1f} %", fontsize="medium")
        ax.set_xlabel("confidence (below the dotted line: overconfident)")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
    figure.axes[0].set_ylabel("accuracy")


def draw_disagreements(figure, pair):
    """The images on which the two probabilities of the true class differ most, with both predictions."""
    axes = figure.subplots(2, (len(pair.shown) + 1) // 2, squeeze=False).flat
    for ax in axes:
        ax.set_axis_off()
    for ax, row, image in zip(figure.axes, pair.shown, pair.images, strict=False):
        ax.imshow(image, interpolation="nearest")
        lines = [f"true: {pair.classes[pair.targets[row]]}"]
        for label, probabilities in zip(("1", "2"), pair.probabilities[:, row], strict=True):
            best = probabilities.argmax()
            lines.append(f"{label}: {pair.classes[best]} {probabilities[best]:.0%}")
        ax.set_title("\n".join(lines), fontsize="x-small", loc="left")
    figure.supxlabel(f"1: {pair.names[0]}; 2: {pair.names[1]}", fontsize="small")


def pair_charts(pair):
    """{file's name: (title, draw, pair)} of the pictures that this pair allows."""
    if pair is None:
        return {}
    found = {"confusion": ("Confusion between groups of classes", draw_confusion, pair)} if groups_of(pair) else {}
    found["reliability"] = ("Accuracy against confidence", draw_reliability, pair)
    found["disagreements"] = ("The test images on which the two networks differ most", draw_disagreements, pair)
    return found
