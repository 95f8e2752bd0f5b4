"""How long runs will take, at the speeds that a cost pass measured. Nothing here needs torch, which takes seconds to import."""

from tuning import as_text

SPEEDS = "cost.json"  # the file in OUT


def network_of(arch, knobs):
    """A network's identity: ghostnet_eca_resnet is eca_ghostnet_resnet, and a knob of 1e-6 is one of 1e-06."""

    def plain(value):  # typed or parsed
        text = as_text(value)
        try:
            return float(text)
        except ValueError:
            return text.lower()

    return frozenset(arch.split("_")), frozenset((name, plain(value)) for name, value in knobs.items())


def hours_of(networks, rows, n_images):
    """Hours of training each network on n_images, at the speeds in the rows of cost.json; empty if one is not known.

    networks: {run: (arch, {knob: value as typed})}. Returns {run: hours}.
    """
    measured = {network_of(row["arch"], row["settings"]): row["train_imgs_per_s"] for row in rows}
    speeds = {run: measured.get(network_of(*network)) for run, network in networks.items()}
    return {run: n_images / speed / 3600 for run, speed in speeds.items()} if all(speeds.values()) else {}
