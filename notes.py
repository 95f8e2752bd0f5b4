"""The texts around the numbers: what each method is, how differences are judged, and where every number comes from."""

import math
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from flags import parse_args
from names import family_and_depth
from noise import ALPHA, FASTER, FEWEST_NETWORKS, FEWEST_SEEDS, NEAR, POWER, learned, not_undercut
from rows import at_chance, epochs_of, in_list, machine, most_by_chance, recipe_of
from tables import top1_cell
from verdicts import baseline_in, numbered


@dataclass(frozen=True)
class Module:
    name: str
    slot: str  # conv, attention, block, stage or pool
    paper: str
    idea: str
    place: str
    departure: str  # how the module differs from the paper's

    @property
    def lines(self):
        return self.idea, self.place, self.departure


BEFORE_ADD = "Scales the channels of the residual branch, after its last norm and before the add."
GATE_ALONE = "Here the gate is used alone, without the paper's 1x1 convolutions and inner shortcut."
THIRD_STAGE = "Replaces the last two of the three basic blocks of the third stage, where the maps are smallest."
EVERY_BLOCK = "Replaces every basic block and brings its own stem, downsampling and norms."
BOTH_CONVS = "Replaces both 3x3 convolutions of every basic block."

MODULES = {
    "eca": Module(
        "ECA", "attention", "Wang et al., ECA-Net, CVPR 2020",
        "Weights each channel by a 1D convolution over the means of its neighbouring channels: 3 to 7 parameters a layer.",
        BEFORE_ADD, "As in the authors' code.",
    ),
    "se": Module(
        "SE", "attention", "Hu et al., Squeeze-and-Excitation Networks, CVPR 2018",
        "Weights each channel by a small two-layer network that sees the means of all channels.",
        BEFORE_ADD, "As in the paper's SE-ResNet.",
    ),
    "segnext": Module(
        "SegNeXt attention", "attention", "Guo et al., SegNeXt, NeurIPS 2022",
        "Weights every pixel of every channel by strip convolutions 7, 11 and 21 pixels long.",
        "Scales the residual branch, after its last norm and before the add.", GATE_ALONE,
    ),
    "lsknet": Module(
        "LSKNet attention", "attention", "Li et al., Large Selective Kernel Network, ICCV 2023",
        "Lets every pixel choose between a small and a large depthwise kernel.",
        "Scales the residual branch, after its last norm and before the add.", GATE_ALONE,
    ),
    "ghostnet": Module(
        "GhostNet", "conv", "Han et al., GhostNet, CVPR 2020",
        "Computes half of the channels by convolution and derives the rest from them with cheap depthwise filters.",
        BOTH_CONVS, "As in the paper's Ghost-ResNet-56.",
    ),
    "resnest": Module(
        "ResNeSt", "conv", "Zhang et al., ResNeSt, CVPR Workshops 2022",
        "Splits the channels, convolves each split, and sums the splits with weights computed from their means.",
        "Replaces the first 3x3 convolution of every basic block.",
        "The second convolution stays: split attention is never negative, so alone it could only add to the shortcut.",
    ),
    "multiscale": Module(
        "Multi-scale convolution", "conv", "Szegedy et al., Going Deeper with Convolutions, CVPR 2015",
        "Runs kernels of 3, 5 and 7 pixels side by side on parts of the channels.",
        BOTH_CONVS, "Here reduced to the kernels side by side, with one norm after them.",
    ),
    "convnext": Module(
        "ConvNeXt", "block", "Liu et al., A ConvNet for the 2020s, CVPR 2022",
        "A depthwise 7x7 convolution, a layer norm, and a two-layer MLP four times as wide.",
        EVERY_BLOCK, "By default layer scale starts at 1, not 1e-6, so that SGD can train it.",
    ),
    "hornet": Module(
        "HorNet", "block", "Rao et al., HorNet, NeurIPS 2022",
        "Multiplies features with one another, once per order, through gates made of depthwise convolutions.",
        EVERY_BLOCK, "By default layer scale starts at 1 and gates are scaled by 3, so that SGD can train it.",
    ),
    "coatnet": Module(
        "CoAtNet", "block", "Dai et al., CoAtNet, NeurIPS 2021",
        "Inverted bottlenecks in the early stages, self-attention with relative positions in the late ones.",
        EVERY_BLOCK, "Here attention heads have 16 channels, and the stem keeps the image's size.",
    ),
    "gmlp": Module(
        "gMLP", "block", "Liu et al., Pay Attention to MLPs, NeurIPS 2021",
        "An MLP over channels whose hidden map is gated by a learned mix of all pixels.",
        THIRD_STAGE, "Here it follows convolutions; the paper's network has none.",
    ),
    "mixer": Module(
        "MLP-Mixer", "block", "Tolstikhin et al., MLP-Mixer, NeurIPS 2021",
        "One MLP across the pixels of each channel, then one across the channels of each pixel.",
        THIRD_STAGE, "Here it follows convolutions; the paper's network has none.",
    ),
    "mscan": Module(
        "MSCAN", "block", "Guo et al., SegNeXt, NeurIPS 2022",
        "The whole block around multi-scale convolutional attention.",
        EVERY_BLOCK, "Here the stem keeps the image's size.",
    ),
    "lskblock": Module(
        "LSKNet block", "block", "Li et al., Large Selective Kernel Network, ICCV 2023",
        "The whole block around large selective kernels.",
        EVERY_BLOCK, "Here the stem keeps the image's size.",
    ),
    "cspnet": Module(
        "CSPNet", "stage", "Wang et al., CSPNet, CVPR Workshops 2020",
        "Sends part of the channels through a stage's blocks and routes the rest around them.",
        "Wraps every stage; the blocks inside stay as they are.", "Here with ReLU, as in the rest of the network.",
    ),
    "productpool": Module(
        "Product pooling (ours)", "pool", "A module of this project, results/own/README.md",
        "Multiplies two batch-normalized linear maps of each pixel and averages the products: a low-rank bilinear pooling.",
        "Replaces the mean over pixels before the classifier.", "256 products, whatever the network's width. The "
        "idea came from test scores of other methods.",
    ),
}  # fmt: skip


def modules_of(nets):
    """{method: Module} of the methods named in the architectures, in the order of MODULES; unknown ones are left out."""
    used = {method for net in nets if net.is_method for method in net.arch.split("_")[:-1]}
    return {method: module for method, module in MODULES.items() if method in used}


# ------------------------------------------------------------------------------------------- how differences are judged


RULE = f"""\
*Costs* are parameters, MACs and training time. The *widening curve* is the plain backbone's top-1 at several widths, against one of these costs.

- *helps*: above the baseline (Holm-corrected p < {ALPHA}), above the widening curve at one cost or more (the interval lies above 0), and below it at none (no interval lies below 0). A method that cannot be compared with a widening curve is judged against the baseline alone; its remark says so.
- *no better than widening*: above the baseline, but not above the widening curve at any cost, or below it at one or more.
- *better than narrowing*: below the baseline (Holm-corrected p < {ALPHA}), but above the widening curve at one cost or more that it saves (Holm-corrected over all methods and costs), and below it at none: a narrower backbone of that cost loses more.
- *hurts*: below the baseline, and not better than narrowing.
- *unstable*: with some seeds the method or the baseline ended no better than guessing (at chance), with others clearly better. The mean would mix two outcomes, so the method gets no other verdict and no *detectable* difference, and is not compared at equal cost or by superclass. It still counts in Holm's correction.
- *no evidence*: everything else. If a method is above or below the curve at some cost, its remark says so.
- no verdict: with a single seed; for a method that lacks a result with some of the baseline's seeds, unless it is unstable; and for every method if the baseline itself ended at chance, because the budget was then too short."""

NOISE = f"""\
Three seeds say little about the noise of one network, but the networks of a comparison have similar noise. So each network's variance over seeds is moderated: drawn towards the others' (empirical Bayes: Smyth 2004, made robust as in Phipson et al. 2016). Seeds are blocks: what a seed does to all networks alike cancels out. The noisier a network is than the others, the more it keeps of its own noise; one that is far noisier, or ended at chance, keeps all of it, and a remark names it. With fewer than {FEWEST_NETWORKS} networks that learned with all seeds of the comparison, or fewer than {FEWEST_SEEDS} seeds, there is too little to learn from the others, and a difference is judged by the paired t-test of its own seeds. All intervals cover 95% and use this noise: those of differences, of top-1, of the widening curve and of the ablations. They say what other seeds would give, not other test images or datasets."""


def noise_text(results):
    """NOISE, and which of its two tests the verdicts here come from."""
    tests = {bool(results.noise_of(result.seeds).moderated) for result in results.judged}
    used = {True: "robustly moderated noise, except where a remark says otherwise", False: "paired t-tests"}
    return f"{NOISE} The verdicts here use {used[tests.pop()]}." if len(tests) == 1 else NOISE


# printed by: python -m tests.simulate_verdicts
SIMULATED = """\
| networks | noise | seeds | test | false claim | no effects: false claim | interval misses | 1, 2, 4 points found | detectable found |
| --: | --- | --: | --- | --: | --: | --: | --: | --: |
| 16 | equal | 3 | paired t-tests | 3.9 % | 4.5 % | 4.9 % | 2, 5, 17 % | 65 % |
| 16 | equal | 3 | plain moderation | 1.6 % | 1.9 % | 4.1 % | 8, 57, 99 % | 74 % |
| 16 | equal | 3 | robust moderation | 1.9 % | 2.2 % | 4.3 % | 8, 53, 95 % | 67 % |
| 8 | equal | 3 | robust moderation | 3.3 % | 3.3 % | 4.7 % | 14, 60, 97 % | 66 % |
| 16 | equal | 5 | paired t-tests | 4.5 % | 4.6 % | 4.9 % | 7, 37, 94 % | 69 % |
| 16 | equal | 5 | plain moderation | 2.6 % | 2.7 % | 4.5 % | 24, 94, 100 % | 77 % |
| 16 | equal | 5 | robust moderation | 2.1 % | 2.1 % | 4.2 % | 20, 88, 100 % | 72 % |
| 8 | equal | 5 | robust moderation | 2.7 % | 2.5 % | 4.3 % | 30, 92, 100 % | 72 % |
| 16 | 7 times for one | 3 | paired t-tests | 4.0 % | 4.4 % | 5.0 % | 1, 4, 15 % | 64 % |
| 16 | 7 times for one | 3 | plain moderation | 13.3 % | 14.6 % | 5.3 % | 3, 22, 83 % | 67 % |
| 16 | 7 times for one | 3 | robust moderation | 4.5 % | 4.9 % | 4.3 % | 6, 42, 85 % | 64 % |
| 8 | 7 times for one | 3 | robust moderation | 4.6 % | 5.9 % | 4.9 % | 8, 40, 76 % | 60 % |
| 16 | 7 times for one | 5 | paired t-tests | 4.1 % | 4.4 % | 5.0 % | 6, 32, 83 % | 68 % |
| 16 | 7 times for one | 5 | plain moderation | 5.4 % | 6.1 % | 4.0 % | 6, 58, 91 % | 72 % |
| 16 | 7 times for one | 5 | robust moderation | 2.3 % | 2.1 % | 4.0 % | 16, 77, 88 % | 70 % |
| 8 | 7 times for one | 5 | robust moderation | 2.1 % | 2.8 % | 4.1 % | 19, 68, 77 % | 64 % |
| 16 | 7 times for two | 3 | paired t-tests | 3.9 % | 4.3 % | 5.0 % | 1, 4, 13 % | 62 % |
| 16 | 7 times for two | 3 | plain moderation | 10.8 % | 12.2 % | 5.7 % | 2, 8, 59 % | 64 % |
| 16 | 7 times for two | 3 | robust moderation | 6.6 % | 7.4 % | 4.4 % | 4, 30, 74 % | 60 % |
| 8 | 7 times for two | 3 | robust moderation | 6.8 % | 9.4 % | 6.0 % | 3, 12, 49 % | 55 % |
| 16 | 7 times for two | 5 | paired t-tests | 4.0 % | 4.2 % | 5.1 % | 5, 28, 72 % | 65 % |
| 16 | 7 times for two | 5 | plain moderation | 3.9 % | 4.5 % | 4.0 % | 2, 32, 79 % | 68 % |
| 16 | 7 times for two | 5 | robust moderation | 2.3 % | 2.1 % | 3.8 % | 11, 64, 76 % | 66 % |
| 8 | 7 times for two | 5 | robust moderation | 2.9 % | 3.9 % | 4.4 % | 5, 34, 59 % | 58 % |
| 16 | 3 times for the baseline | 3 | paired t-tests | 3.0 % | 3.9 % | 4.9 % | 1, 1, 4 % | 63 % |
| 16 | 3 times for the baseline | 3 | plain moderation | 16.0 % | 16.0 % | 21.5 % | 14, 34, 75 % | 62 % |
| 16 | 3 times for the baseline | 3 | robust moderation | 8.0 % | 7.7 % | 11.4 % | 6, 16, 37 % | 56 % |
| 8 | 3 times for the baseline | 3 | robust moderation | 7.6 % | 7.8 % | 10.8 % | 8, 19, 42 % | 56 % |
| 16 | 3 times for the baseline | 5 | paired t-tests | 2.3 % | 2.6 % | 5.0 % | 1, 5, 26 % | 67 % |
| 16 | 3 times for the baseline | 5 | plain moderation | 14.5 % | 13.9 % | 19.0 % | 17, 47, 91 % | 63 % |
| 16 | 3 times for the baseline | 5 | robust moderation | 4.4 % | 3.9 % | 7.3 % | 5, 14, 39 % | 62 % |
| 8 | 3 times for the baseline | 5 | robust moderation | 4.6 % | 4.3 % | 7.3 % | 8, 21, 54 % | 62 % |
| 16 | log-normal | 3 | paired t-tests | 3.9 % | 4.9 % | 5.0 % | 2, 5, 18 % | 62 % |
| 16 | log-normal | 3 | plain moderation | 5.2 % | 5.5 % | 5.8 % | 5, 37, 88 % | 68 % |
| 16 | log-normal | 3 | robust moderation | 4.5 % | 5.0 % | 5.4 % | 6, 36, 77 % | 60 % |
| 8 | log-normal | 3 | robust moderation | 4.9 % | 6.1 % | 5.9 % | 14, 50, 85 % | 61 % |
| 16 | log-normal | 5 | paired t-tests | 3.7 % | 4.2 % | 5.0 % | 9, 35, 80 % | 65 % |
| 16 | log-normal | 5 | plain moderation | 3.4 % | 3.9 % | 5.3 % | 14, 70, 97 % | 70 % |
| 16 | log-normal | 5 | robust moderation | 2.7 % | 3.3 % | 4.8 % | 14, 64, 91 % | 65 % |
| 8 | log-normal | 5 | robust moderation | 3.9 % | 4.5 % | 5.3 % | 26, 74, 95 % | 66 % |"""

SIMULATION = """\
The test was chosen by simulation (`python -m tests.simulate_verdicts` prints its whole table). Each simulated report compares 15 or 7 methods with one baseline; three of them differ from it by 1, 2 and 4 points. The noise over seeds has a standard deviation of 0.65 points for all networks; or seven times that for one or two of them, or three times that for the baseline; or it varies log-normally between them (0.5 is the standard deviation of its logarithm).

- *false claim*: reports that call a difference significant though it is zero or has the other sign; under *no effects*, no method differs
- *interval misses*: single 95% intervals that miss 0 where no method differs
- *1, 2, 4 points found*: how often each of the three differences is found
- *detectable found*: how often a true difference as large as an earlier report's *detectable* is found: below 80%, because few seeds say little about the noise

Paired t-tests find little with few seeds. Plain moderation, as in Smyth 2004, finds more, but if one network is far noisier than the others, up to a sixth of its reports make a false claim. With robust moderation 2 to 6% do (about differences from the baseline, not from the widening curve), and 4 to 6% of intervals miss, with two exceptions: with three seeds, 7 to 9% make a false claim if two networks are that noisy; if the baseline is three times as noisy as the others, 8% do, and 11% of intervals miss (with five seeds 5 and 7%)."""


def simulation_text(results):
    """SIMULATION and, of its table, the rows of this report's test with as many seeds as it compares, or with any."""
    compared = results.judged or results.nets
    tests = {bool(results.noise_of(each.seeds).moderated) for each in compared}
    rule = "robust moderation" if True in tests else "paired t-tests"
    n_seeds = str(max(len(each.seeds) for each in compared))
    header, line, *rows = SIMULATED.splitlines()
    shown = [row for row in rows if f"| {n_seeds} | {rule} |" in row] or [row for row in rows if rule in row]
    used = " The table shows the test used here." * (bool(results.judged) and len(tests) == 1)
    return "\n".join([f"{SIMULATION}{used}\n", header, line, *shown])


FAMILY = "Holm's correction covers {judged} and becomes stricter with each method that is added."
DETECTABLE = f"*Detectable*: the true difference that would be found with a probability of {POWER:.0%} if the noise were exactly as estimated here, at Holm's strictest level, {ALPHA} / {{m}} (noncentral t). As the noise is estimated from few seeds, such a difference is found less often: see *detectable found* in the table of simulated reports."
EQUAL_COST = f"""\
Points of top-1 over the plain backbone at the same cost: mean ± 95% interval, not corrected for multiple comparisons. The backbone's top-1 is interpolated between its trained widths, linearly in log(cost); the interval covers the noise of both. A straight line lies below a curve that flattens, which favours the methods; so a method between two widths whose costs differ by more than a factor of {NEAR:g} is compared only if it lies below the line or costs nearly the same as one of the two. Outside the trained widths there is no comparison. A width that ended at chance with any seed is left out and, at equal training time, one that takes at least {1 - FASTER:.0%} of a wider one's time. Training time is the measured time per training image, taken as exact."""
NO_CURVE = "There is no comparison: no second width of the backbone (`resnet.width`) learned with all of the baseline's seeds. `WIDTHS` of compare.sh adds some."


# ------------------------------------------------------------------------------------------ where the numbers come from


def dataset_of(row):
    """The dataset's name as its authors write it."""
    names = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "folder": "an image folder"}
    return names.get(row["dataset"], row["dataset"])


def in_words(recipe):
    return ", ".join(f"{name} {value}" for name, value in recipe.items() if value is not None)


def shared_recipe(results):
    """The settings that all networks share."""
    return {name: value for name, value in recipe_of(results.row).items() if name not in results.own_recipes}


def have_same_seeds(results):
    """Whether everything that is compared has the same seeds: methods, baselines and the widths of each curve."""
    compared = [net for net in results.nets if not net.on_curve or net in results.curves.get(net.backbone, ())]
    return len({tuple(sorted(net.seeds)) for net in compared or results.nets}) == 1


def design_table(results):
    """What was compared and how: one row per part of the design."""
    row, recipe = results.row, shared_recipe(results)
    seeds = sorted({seed for net in results.nets for seed in net.seeds})
    folds = f" in each of {row['folds']} folds" if row.get("folds") else ""
    scored = "once, after the last epoch" if row["n_val"] else "after every epoch, but only the last score counts"
    table = [
        ["part", "value"],
        ["data", f"{dataset_of(row)}: {row['classes']} classes; {row['n_train']:,} training images, {row['n_val']:,} held out{folds}, "
                 f"{row['n_test']:,} test images"],
        ["budget", epochs_of(row) + f", {row['batch_size']} images per step" * ("batch_size" in recipe)],
    ]  # fmt: skip
    always = ("optimizer", "lr", "momentum", "weight_decay", "schedule", "warmup_frac", "label_smoothing", "amp")
    elsewhere = ("dataset", "image_size", "val_size", "folds", "epochs", "max_steps", "batch_size")
    defaults = vars(parse_args([]))
    others = [name for name in defaults if name in recipe and name not in (*always, *elsewhere)]
    unusual = [name for name in others if (recipe[name] or None) != (defaults[name] or None)]
    table.append(["recipe", in_words({name: recipe[name] for name in (*always, *unusual) if name in recipe})])
    if results.own_recipes:
        table[-1][1] += f"; each architecture has its own {in_list(results.own_recipes)}"
    held_out = ", the part held out," * bool(row.get("val_size") and not row.get("folds"))
    same = "the same for everything compared" if have_same_seeds(results) else "though some networks lack some of them"
    sets = f"a seed sets the initial weights{held_out} and the order and augmentation of the images"
    table.append(["seeds", f"{in_list(seeds)}, {same}: {sets}"])
    table.append(["test set", f"scored {scored}; no epoch or setting is chosen on it"])
    for backbone, curve in results.curves.items():
        baseline, family = baseline_in(curve), family_and_depth(backbone)
        layers = f", {family[1]} layers" if family else ""
        part = "baseline" if any(result.reference is baseline for result in results.methods) else "network"
        table.append([part, f"{backbone}{layers}: {baseline.costs['parameters']:,} parameters, "
                      f"{baseline.costs['MACs'] / 1e6:.1f} million MACs per image; top-1 "
                      f"{top1_cell(results, baseline)} %"])  # fmt: skip
        widths = [net.width for net in curve if learned(net, baseline.seeds)]
        if len(widths) > 1:
            curve_of = f"{backbone} at widths {in_list(widths)}, whose top-1 against cost is the widening curve"
            table.append(["equal cost", f"{curve_of}: what the same cost buys without a module"])
    machines = {machine(each) for net in results.nets for each in net.runs.values()}
    table.append(
        ["machines", next(iter(machines)) if len(machines) == 1 else f"{len(machines)} kinds, listed at the end"]
    )
    return table


def conditions_of(cost_pass):
    """The conditions under which cost.json or costs.json was measured, in words."""
    others = ("rows", "latency", "eval_batch_size")  # eval_batch_size is that of the smallest images only
    return in_words({name: value for name, value in cost_pass.items() if name not in others})


def speed_text(results):
    """Where the speeds come from, and which cannot be compared."""
    timed = [net for net in results.networks if net.cost_row]
    untimed = [net.name for net in results.networks if not net.cost_row]
    if not timed:
        return ("Speeds were measured during training and include its start (on a GPU, the capture of the step); they are medians over "
                "the seeds. Other work on the machine may have slowed a run, so they are not compared. In a cost pass (cost.json, see compare.sh) all networks take turns.")  # fmt: skip
    text = f"Speeds are from the cost pass ({conditions_of(results.cost_pass)}): medians over rounds in which the networks take turns."
    if untimed:
        text += f" It has not timed {in_list(untimed)}."
    shared = [
        name
        for name in ("amp", "compile", "batch_size", "device", "torch")
        if name in results.cost_pass and name in results.row
    ]
    rows = [row for net in timed for row in net.runs.values()]
    other = [name for name in shared if any(row.get(name) != results.cost_pass[name] for row in rows)]
    return text + f" Training and the cost pass differ in {in_list(other)}." * bool(other)


def timed_on(results):
    """'; training time was measured on ...', where a cost pass measured it."""
    device = (results.cost_pass or {}).get("device")
    return f"; training time was measured on {device}" if device else ""


def latency_text(cost_pass):
    """What the latencies of a cost pass are and where they were measured; '' if it has none."""
    found = [f"as {kind}: {place}" for kind, place in (cost_pass or {}).get("latency", {}).items() if place]
    if not found:
        return ""
    return ("Latency is the time from one image to its logits: the median and the 95th percentile of calls, for which the "
            f"networks took turns ({'; '.join(found)}).")  # fmt: skip


def machines_text(results):
    """Which networks were trained on which machines, as a list; '' if all ran on one kind."""
    found = by_machine((net.name, net) for net in results.networks)
    if len(found) < 2:
        return ""
    intro = "Memory can be compared only between networks trained on the same kind of machine:"
    return "\n\n".join([intro, "\n".join(f"- {machines}: {', '.join(names)}" for machines, names in found.items())])


def by_machine(named_nets):
    """(name, net) -> {kinds of machine: names of the networks trained there}."""
    names_of = {}
    for name, net in named_nets:
        names_of.setdefault(in_list(sorted({machine(row) for row in net.runs.values()})), []).append(name)
    return names_of


def trained_where(named_nets):
    """Which of the (name, net) were trained on which kinds of machine, as a sentence; '' if all ran on one kind."""
    found = by_machine(named_nets)
    where = "; ".join(f"{in_list(names)} on {machines}" for machines, names in found.items())
    return f"Trained on different machines: {where}." if len(found) > 1 else ""


def bias_text(results):
    """How much choosing the epoch on the test set would flatter, from the runs that watched the test set."""
    values = [v for net in results.nets for v in net.values("best_on_test_minus_last") if not math.isnan(v)]
    if not values:
        return "No epoch could be chosen on the test set: each run scored it once, after its last epoch."
    return (f"Reporting the best epoch on the test set instead of the last one would have added {np.mean(values):.2f} points on "
            f"average and {max(values):.2f} at most (n = {len(values)} runs). This report does not do so.")  # fmt: skip


FEW_IMAGES = 1000


def few_images_text(row):
    """What so small a test set cannot tell; nothing for a larger one."""
    if row["n_test"] >= FEW_IMAGES:
        return ""
    return (f"With {row['n_test']} test images, one image is {100 / row['n_test']:.1f} points of top-1, and a top-1 of up to "
            f"{most_by_chance(row):.0f}% passes for guessing.")  # fmt: skip


def left_out_text(results):
    """The networks and seeds left out of the comparison, each with the reason."""
    lines = [f"{r.net.name}: {r.remark}" for r in results.methods if r.lacks or not r.reference]
    for r in results.methods:
        unused = sorted(set(r.net.seeds) - set(r.reference.seeds)) if r.reference else []
        if unused:
            why = f"with which {r.reference.name} has no result: left out of the difference"
            lines.append(f"{r.net.name}: {numbered(unused)}, {why}")
    for net in (net for net in results.nets if net.on_curve):
        curve = results.curves.get(net.backbone, ())
        why = ""
        if not curve:
            why = f"{net.backbone} itself has no result"
        elif net not in curve:
            why = f"it has no result with some seeds of {net.backbone}"
        elif net.settings and (lost := [s for s in baseline_in(curve).seeds if at_chance(net.runs[s])]):
            why = f"it ended at chance with {numbered(lost)}"
        lines += [f"{net.name}: not in the widening curve, because {why}"] if why else []
    for curve in results.curves.values():
        timed = [net for net in curve if net.can_compare("training time") and learned(net, baseline_in(curve).seeds)]
        kept = not_undercut(timed, "training time")
        why = "not in the curve at equal training time, because a wider one takes less time, or hardly more"
        lines += [f"{net.name}: {why}" for net in timed if net not in kept]
    return lines + results.without_result


def provenance(results):
    """Where every number comes from: [[what, value]]."""
    rows = [row for net in results.nets for row in net.runs.values()]
    each = f", each the mean of {rows[0]['folds']} folds" if rows[0].get("folds") else ""
    return [["runs", f"{len(rows)}, of {len(results.nets)} networks{each}"], *origins(rows)]


def short_commit(commit):
    """The first 7 digits of each commit, with -dirty if the code was changed."""
    return re.sub(r"\b([0-9a-f]{7})[0-9a-f]+", r"\1", str(commit))


def origins(rows):
    """The rows' machines, torch versions and commits: [[what, each value with its number of runs]]."""

    def counted(values):
        return "; ".join(f"{value} ({n} run{'s' * (n > 1)})" for value, n in sorted(Counter(map(str, values)).items()))

    contents = [row["content"] for row in rows if row.get("content")]
    differ = (
        [["data, which differ in a label, an image, its decoding or the order", counted(contents)]]
        if len(set(contents)) > 1
        else []
    )
    return [["machines", counted(map(machine, rows))], ["torch", counted(row["torch"] for row in rows)],
            ["commits", counted(short_commit(row["commit"]) for row in rows)], *differ]  # fmt: skip
