"""How long runs will take, at the speeds that a cost pass measured. Nothing here needs torch, which takes seconds to import."""

from names import network_of

SPEEDS = "cost.json"  # the file in OUT


def hours_of(networks, rows, n_images):
    """Hours of training each network on n_images, at the speeds in the rows of cost.json; empty if one is not known.

    networks: {run: (arch, {knob: value as typed})}. Returns {run: hours}.
    """
    measured = {network_of(row["arch"], row["settings"]): row["train_imgs_per_s"] for row in rows}
    speeds = {run: measured.get(network_of(*network)) for run, network in networks.items()}
    return {run: n_images / speed / 3600 for run, speed in speeds.items()} if all(speeds.values()) else {}
