"""What the report says of the results, in sentences."""

import math

from names import family_and_depth
from noise import POWER
from notes import MODULES, dataset_of
from rows import COSTS, at_chance, epochs_of, in_list
from tables import by_depth, depth_table, difference_cell, interval, pm, train_loss
from verdicts import WORDS, numbered

MOST_NAMES = 3  # in a sentence; a list has the others
UNKNOWN_NOISE = "How much of this is chance is unknown: two runs of the same network also differ, and only more seeds show by how much."
PHRASES = {  # verdict -> its phrase for one method, and for several
    "no better than widening": (
        "is not clearly ahead of a wider ResNet",
        "are not clearly ahead of a wider ResNet",
    ),
    "better than narrowing": (
        "saves cost and loses less than a narrower ResNet",
        "save cost and lose less than narrower ResNets",
    ),
    "hurts": ("hurts", "hurt"),
    "no evidence": ("shows no evidence either way", "show no evidence either way"),
    "unstable": (
        "is unstable (it or its baseline failed to learn with some seeds)",
        "are unstable (they or their baseline failed to learn with some seeds)",
    ),
}


def readable(net):
    """A network's name for readers who have not seen the code: 'gMLP', 'ECA + GhostNet', 'ECA (resnet56)', with its knobs."""
    if not net.is_method:
        return net.name
    names = " + ".join(MODULES[method].name if method in MODULES else method for method in net.arch.split("_")[:-1])
    details = [net.backbone] * (net.backbone != "resnet") + [net.knobs] * bool(net.settings)
    return names + f" ({', '.join(details)})" * bool(details)


def best_methods(comparisons):
    """The best MOST_NAMES methods with their differences, and how many more there are."""
    return first_few([f"{readable(result.net)} {interval(result.estimate, '+')}" for result in comparisons])


def first_few(names):
    """The first MOST_NAMES names, and how many more there are."""
    rest = len(names) - MOST_NAMES
    return in_list([*names[:MOST_NAMES], f"{rest} more"] if rest > 0 else names)


def opening(results):
    """The answer in a few sentences."""
    early = [too_early_sentence(results)] if any(result.too_early for result in results.methods) else []
    if results.judged:
        sentences = helps_sentence(results), others_sentence(results), *budget_sentences(results), *early
        return [text for text in sentences if text]
    if early:
        return early
    if seen := [result for result in results.methods if result.seeds]:
        return unjudged_sentences(results, seen)
    if ablated := [result for compared in results.ablations.values() for result in compared if result.judged]:
        n_changes = [f"{sum(r.change == word for r in ablated)} {word}" for word in ("better", "worse", "unstable")]
        lacks = "There is no verdict on methods: none has a result with its defaults and with a seed of its baseline."
        return [
            f"Settings compared with their architecture's default: {len(ablated)} ({in_list(n_changes)}).",
            *[lacks] * any(net.is_method for net in results.nets),
            power_sentence(ablated),
        ]
    if depth_table(results) and (sentences := depth_sentences(results)):
        return sentences
    why = "no method has a result" + " with a seed of its baseline" * bool(results.methods)
    if missing := sorted({result.net.backbone for result in results.methods if result.reference is None}):
        why = f"there is no result of the baseline{'s' * (len(missing) > 1)} {in_list(missing)}"
    elif lacking := [
        arch for arch, found in results.ablations.items() if all(each.reference is None for each in found)
    ]:
        have = "has" if len(lacking) == 1 else "have"
        why = f"{in_list(lacking)} {have} results with other settings only, not with the default that these are compared with"
    n_nets = len(results.nets)
    return [f"There is no verdict: {why}.", f"{n_nets} network{'s have' if n_nets > 1 else ' has'} results."]


def unjudged_sentences(results, seen):
    """Why none of the methods `seen` beside their baseline has a verdict, and the stable ones' differences nonetheless."""
    if all(result.lacks for result in seen):
        why = "no method has results with all of its baseline's seeds"
    elif any(result.lacks for result in seen):
        why = "each method shares only one seed with its baseline or lacks some of the baseline's seeds"
    elif any(len(net.seeds) > 1 for net in results.nets):
        why = "only one seed of the baseline has a result"
    else:
        why = "only one seed has results"
    means = [f"{pm(r.mean, math.nan, '+')} points ({readable(r.net)})" for r in seen if not r.unstable]
    differences = [f"The difference from the baseline is {mean}." for mean in means]
    if len(means) > 1:
        differences = [f"Differences from the baseline range from {means[-1]} to {means[0]}."]
    has_noise = any(len(result.seeds) > 1 for result in seen)
    return [f"There is no verdict: {why}.", *differences, *([] if has_noise else [UNKNOWN_NOISE])]


def too_early_sentence(results):
    names = in_list(sorted({result.reference.name for result in results.methods if result.too_early}))
    on = f" on the methods of {names}" if results.judged else ""
    return (
        f"There is no verdict{on}: after {epochs_of(results.row)}, {names} cannot be told from guessing among "
        f"{results.row['classes']} classes on {results.row['n_test']:,} test images."
    )


def helps_sentence(results):
    """Which methods help."""
    n_seeds, row, helps = in_list(sorted({len(r.seeds) for r in results.judged})), results.row, results.by_word("helps")
    n_methods = len(results.judged)
    after = f"After {epochs_of(row)} on {dataset_of(row)} with {n_seeds} seeds"
    if not helps:
        which = f"none of the {n_methods} methods is" if n_methods > 2 else "neither method is"
        if n_methods == 1:
            which = f"{readable(results.judged[0].net)} is not"
        return f"{after}, {which} shown to help."
    verb = "helps" if len(helps) == 1 else "help"
    which = f"{len(helps)} of {n_methods} methods" if n_methods > 1 else "the method"
    return f"{after}, {which} {verb} (points of top-1 over the baseline): {best_methods(helps)}."


def others_sentence(results):
    """How many methods got each of the other words; empty if all help."""
    phrases = verdict_counts(results)
    if not phrases:
        return ""
    if results.by_word("helps"):
        if sum(result.word != "helps" for result in results.judged) == 1:
            return f"The other {phrases[0].removeprefix('1 ')}."
        return f"Of the others, {in_list(phrases)}."
    return all_of_one_word(phrases[0], len(results.judged)) if len(phrases) == 1 else f"{in_list(phrases)}."


def all_of_one_word(phrase, n):
    """'All 3 hurt.', 'Both hurt.', 'It hurts.'; 'None of the 3 is ahead.', where "all are not" could mean that some are."""
    negated = phrase.removeprefix(f"{n} are not ")
    if negated != phrase:
        return f"{'Neither' if n == 2 else f'None of the {n}'} is {negated}."
    who = {1: "It", 2: "Both"}.get(n, f"All {n}")
    return f"{who} {phrase.removeprefix(f'{n} ')}."


def verdict_counts(results):
    """['1 hurts', '3 show no evidence either way']: the methods of each word but "helps"."""
    found = [(len(results.by_word(word)), phrases) for word, phrases in PHRASES.items()]
    return [f"{n} {one if n == 1 else many}" for n, (one, many) in found if n]


def detectables(comparisons):
    """The smallest detectable differences; those of far noisier networks only if there are no others."""
    known = [result for result in comparisons if not math.isnan(result.detectable)]
    return [result.detectable for result in known if not result.noisy] or [result.detectable for result in known]


def ends_of(sizes):
    """'1.3 to 1.7', or '1.3' if both ends read alike. Top-1 cannot differ by more than 100."""
    low, high = (f"{size:.1f}" if size <= 100 else "over 100" for size in (min(sizes), max(sizes)))
    return low if low == high else f"{low} to {high}"


def budget_sentences(results):
    """What these seeds and this budget leave open."""
    budget = f"Longer training may change {'the order' if len(results.judged) > 1 else 'this'}."
    if not detectables(results.judged):
        return [f"{why_unknown(results.judged)}, so the noise is unknown.", budget]
    sizes = detectables(results.by_word("no evidence"))
    if not sizes:
        return [budget]
    noisier = [result for result in results.by_word("no evidence") if result.detectable > max(sizes)]
    more = f" ({first_few([f'{readable(r.net)}: {ends_of([r.detectable])}' for r in noisier])})" if noisier else ""
    unseen = f"true differences of up to {max(sizes):.1f} points{more} may well have gone unnoticed"
    if max(sizes) > 100:  # more than top-1 can differ
        unseen = "true differences of any size may well have gone unnoticed: train with more seeds"
    return [f"Where there is no evidence, {unseen}.", budget]


def why_unknown(comparisons):
    unstable = [result.unstable for result in comparisons]
    if all(unstable):
        return "No comparison is stable"
    return "No stable comparison shows a spread over its seeds" if any(unstable) else "The seeds show no spread"


def cost_sentence(results):
    """How many methods are above and below a ResNet at each equal cost, uncorrected, and the largest gain."""
    gaps = [(gap, cost, r.net) for r in results.judged for cost, gap in r.gaps.items() if not gap.why]
    unjudged = [gap for r in results.methods for gap in r.gaps.values() if not gap.why]
    if not gaps and unjudged and not results.judged:
        if all(math.isnan(gap.half) for gap in unjudged):
            return "With one seed, differences from a ResNet of equal cost have no interval."
        return "No method has results with all of its baseline's seeds, so none is judged at equal cost."
    if not gaps:
        which = "No method that was judged" if unjudged else "No method"
        return f"{which} could be compared with a ResNet of another width, which may do as well."
    counts = []
    for cost in COSTS:
        if of_cost := [gap for gap, at, _ in gaps if at == cost]:
            above, below = (sum(getattr(gap, side) for gap in of_cost) for side in ("above", "below"))
            counts.append(f"{above} above and {below} below (of {len(of_cost)}) at equal {cost}")
    counts = f"Methods above or below a ResNet of equal cost, each interval taken alone: {', '.join(counts)}."
    if not any(gap.above for gap, *_ in gaps):
        return counts
    best, cost, net = max((entry for entry in gaps if entry[0].above), key=lambda entry: entry[0].mean)
    among = " whose interval lies above 0" * (best.mean < max(gap.mean for gap, *_ in gaps))
    largest = f"{readable(net)} at equal {cost}: {pm(best.mean, best.half, '+')} points."
    if len(gaps) == 1:
        return f"{counts} {largest}"
    return (
        f"{counts} Of the {len(gaps)} differences at equal cost, the largest gain{among} is that of {largest} As the largest, it is "
        "likely an overestimate."
    )


def power_sentence(comparisons):
    """The differences that these comparisons could find."""
    smallest = detectables(comparisons)
    if not smallest:
        return f"{why_unknown(comparisons)}, so it is unknown what these comparisons could find."
    n_known = sum(not math.isnan(result.detectable) for result in comparisons)
    quiet = "without an unusually noisy network" if len(smallest) < n_known else ""
    if min(smallest) > 100:  # more than top-1 can differ
        return "These seeds are too few, or too noisy, to find a difference of any size: train with more seeds."
    if len(smallest) == 1:
        which = f"the one comparison {quiet}" if quiet else "the comparison"
        return (
            f"With these seeds, {which} has an estimated {POWER:.0%} chance (less in simulations) of finding a true difference "
            f"of {smallest[0]:.1f} points."
        )
    return (
        f"With these seeds, {' '.join(['the comparisons', quiet]).strip()} have an estimated {POWER:.0%} chance (less in "
        f"simulations) of finding true differences of {ends_of(smallest)} points, depending on their noise. Smaller ones may "
        "have gone unnoticed."
    )


def verdict_lists(results):
    """[(word, its methods with their differences)]; words without a method are left out."""
    found = [(word, results.by_word(word)) for word in WORDS]
    return [(word, ", ".join(map(with_reason, of_word))) for word, of_word in found if of_word]


def with_reason(result):
    """A method with its difference and, if significant but no plain gain or loss, how it compares at equal cost."""
    named = f"{readable(result.net)} {difference_cell(result)}"
    if result.direction and result.word != "helps" and result.where("above"):
        sides = [
            f"{side} a ResNet at equal {in_list(result.where(side))}"
            for side in ("above", "below")
            if result.where(side)
        ]
        return f"{named} ({', '.join(sides)})"
    return named


def ablation_sentence(arch, comparisons):
    """What the knobs of one architecture did, in a sentence."""
    judged = [result for result in comparisons if result.change]
    if not judged:
        return f"No setting of {arch} can be judged."
    by_change = {
        word: [r for r in judged if r.change == word] for word in ("better", "worse", "no evidence", "unstable")
    }
    phrases = []
    for word in ("better", "worse"):
        found = sorted(by_change[word], key=lambda result: -abs(result.mean))
        names = [f"{result.net.knobs} ({interval(result.estimate, '+')})" for result in found]
        verb = "is" if len(found) == 1 else "are"
        phrases += [f"{first_few(names)} {verb} {word} than the default"] if found else []
    for word, meaning in (
        ("no evidence", "no evidence either way"),
        ("unstable", "not judged, because the setting or the default failed to learn with some seeds"),
    ):
        meaning = meaning if phrases else meaning.capitalize()
        phrases += [f"{meaning}: {len(by_change[word])} of {len(judged)} settings"] if by_change[word] else []
    return f"{'; '.join(phrases)}."


def depth_sentences(results):
    """How more layers changed each kind of network."""
    sentences = []
    for family, words in (("plain", "networks without shortcuts"), ("resnet", "ResNets")):
        nets = [net for key, net in by_depth(results).items() if key[0] == family]
        if len(nets) < 2:
            continue
        shallow, deep = nets[0], nets[-1]
        for net in (shallow, deep):
            if lost := [seed for seed in net.seeds if at_chance(net.runs[seed])]:
                sentences.append(f"{net.arch} ended at chance with {numbered(lost)}.")
        change = results.difference(deep, shallow)
        if math.isnan(change.mean):
            continue
        both = sorted(set(deep.seeds) & set(shallow.seeds))
        rise = train_loss(deep, both) - train_loss(shallow, both)
        layers = [family_and_depth(net.arch)[1] for net in (shallow, deep)]
        sentences.append(
            f"From {layers[0]} to {layers[1]} layers, {words} change by {interval(change, '+')} points of top-1, and their "
            f"training loss by {rise:+.3f}."
        )
    if not sentences:
        return []
    counts, row = sorted({len(net.seeds) for net in by_depth(results).values()}), results.row
    return [
        *sentences,
        f"This is after {epochs_of(row)} on {dataset_of(row)} with {in_list(counts)} seed{'s' * (counts != [1])}; longer training may change it.",
    ]
