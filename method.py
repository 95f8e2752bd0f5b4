"""The report's notes on method: what the words mean, where the noise comes from, and how often the rule errs."""

from noise import ALPHA, FEWEST_NETWORKS, FEWEST_SEEDS, POWER
from widening import FASTER

RULE = f"""\
- *helps*: above the baseline (Holm-corrected p < {ALPHA}), above the widening curve (interval above 0) at one cost at least, and below it (interval below 0) at none. A method that cannot be compared with a widening curve is judged against the baseline alone, and the remark says so.
- *no better than widening*: above the baseline, but not that: not shown to be above the curve anywhere, or below it somewhere.
- *hurts*: below the baseline (Holm-corrected p < {ALPHA}) and above the widening curve at no cost.
- *unstable*: with some seeds, but not with all, the method or the baseline ended no better than guessing. Its mean is a mean of two outcomes, so it gets no other word and has no part in costs, power and superclasses, but counts in Holm's correction.
- *no evidence*: the rest. The remark names a method that is above the curve at some cost.
- no word: with one seed; for a method that was not trained with all of the baseline's seeds, unless it is unstable; and where the baseline itself ended at chance, so that the budget is too short for a verdict."""

NOISE = f"""\
Three seeds tell little about the noise of one network, but the networks of a comparison scatter alike. So each network's variance over seeds is moderated by the others' (empirical Bayes: Smyth 2004, robust as in Phipson et al. 2016). Seeds are blocks: what a seed does to all networks alike cancels. A network far noisier than the others keeps its own noise, and a remark names it. With fewer than {FEWEST_NETWORKS} networks or {FEWEST_SEEDS} seeds there is nothing to learn from the others, and a difference is judged by the paired t-test of its own seeds. All intervals cover 95% and use this noise: those of differences, of top-1, of the widening curve and of the ablations."""

# printed by: python -m tests.simulate_verdicts
SIMULATED = """\
| noise | seeds | rule | false word | false word, no effects | 1, 2, 4 points found |
| --- | --: | --- | --: | --: | --: |
| equal | 3 | paired t-tests | 3.9 % | 4.5 % | 2, 5, 17 % |
| equal | 3 | plain moderation | 1.6 % | 1.9 % | 8, 57, 99 % |
| equal | 3 | this report's | 1.9 % | 2.2 % | 8, 53, 95 % |
| equal | 5 | paired t-tests | 4.5 % | 4.6 % | 7, 37, 94 % |
| equal | 5 | plain moderation | 2.6 % | 2.7 % | 24, 94, 100 % |
| equal | 5 | this report's | 2.1 % | 2.1 % | 20, 88, 100 % |
| one of 7 times | 3 | paired t-tests | 4.0 % | 4.7 % | 1, 5, 16 % |
| one of 7 times | 3 | plain moderation | 12.4 % | 15.1 % | 3, 22, 84 % |
| one of 7 times | 3 | this report's | 4.4 % | 5.3 % | 6, 42, 85 % |
| one of 7 times | 5 | paired t-tests | 3.7 % | 4.5 % | 6, 32, 83 % |
| one of 7 times | 5 | plain moderation | 5.4 % | 6.0 % | 6, 58, 91 % |
| one of 7 times | 5 | this report's | 2.2 % | 2.2 % | 16, 76, 88 % |
| baseline of 7 times | 3 | paired t-tests | 2.2 % | 2.3 % | 0, 1, 1 % |
| baseline of 7 times | 3 | plain moderation | 19.4 % | 20.0 % | 12, 18, 34 % |
| baseline of 7 times | 3 | this report's | 5.0 % | 5.0 % | 3, 4, 8 % |
| baseline of 7 times | 5 | paired t-tests | 1.1 % | 1.2 % | 1, 1, 4 % |
| baseline of 7 times | 5 | plain moderation | 8.6 % | 8.0 % | 6, 11, 29 % |
| baseline of 7 times | 5 | this report's | 1.1 % | 1.0 % | 1, 1, 4 % |
| log-normal | 3 | paired t-tests | 3.9 % | 4.9 % | 2, 5, 18 % |
| log-normal | 3 | plain moderation | 5.2 % | 5.5 % | 5, 37, 88 % |
| log-normal | 3 | this report's | 4.5 % | 5.0 % | 6, 36, 77 % |
| log-normal | 5 | paired t-tests | 3.7 % | 4.2 % | 9, 35, 80 % |
| log-normal | 5 | plain moderation | 3.4 % | 3.9 % | 14, 70, 97 % |
| log-normal | 5 | this report's | 2.7 % | 3.3 % | 14, 64, 91 % |"""

SIMULATION = f"""\
The rule was chosen by simulation. Each simulated report compares 15 methods with one baseline; three of them differ from it by 1, 2 and 4 points. Noise over seeds has a standard deviation of 0.65 points for all networks, or is seven times that for one of them, or varies log-normally between them (0.5 is the standard deviation of its logarithm). A false word is one for a method without effect, or for the wrong sign. Paired t-tests find little with few seeds. Plain moderation finds more, but up to a fifth of its reports hold a false word where one network is far noisier than the others. The rule used here stays near the nominal {ALPHA:.0%} for every kind of noise.

{SIMULATED}"""

DETECTABLE = f"Holm's correction is over the {{m}} methods judged, and becomes stricter with every one that is added. *Detectable* is the smallest true difference that a test at the correction's strictest level ({ALPHA} / {{m}}) finds with a probability of {POWER:.0%} at this noise (noncentral t)."
EQUAL_COST = f"""\
Points of top-1 over the plain backbone at the same cost: mean ± 95% interval, not corrected for their number. The backbone's top-1 is interpolated between its trained widths, linearly in log(cost), and both vary; outside the trained widths nothing is said. Training time is measured seconds per training image, taken as exact; a width that does not take {FASTER:.0%} less of it than a wider one is left out of the curve."""
NO_CURVE = "Nothing is said: no second width of the backbone (`resnet.width`) was trained with all of its seeds."
