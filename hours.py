"""How long runs will take, at the speeds that a cost pass measured. Nothing here needs torch, which takes seconds to import."""

import json

from names import network_of
from settings import refuse

SPEEDS = "cost.json"  # the file in OUT


def speeds_in(out):
    """What cost.json in the folder `out` holds. Ends the program if it is damaged."""
    file = out / SPEEDS
    try:
        return json.loads(file.read_text()) if file.exists() else {"rows": []}
    except ValueError:
        refuse(f"{file} is damaged: delete it, and the speeds are measured again", code=1)


def hours_of(networks, rows, n_images):
    """Hours of training each network on n_images, at the speeds in the rows of cost.json; empty if one is not known.

    networks: {run: (arch, {knob: value as typed})}. Returns {run: hours}.
    """
    measured = {network_of(row["arch"], row["settings"]): row["train_imgs_per_s"] for row in rows}
    speeds = {run: measured.get(network_of(*network)) for run, network in networks.items()}
    return {run: n_images / speed / 3600 for run, speed in speeds.items()} if all(speeds.values()) else {}
