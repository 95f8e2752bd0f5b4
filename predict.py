"""A trained network applied: to images on disk (`train.py --predict IMAGE_OR_FOLDER --init-from RUN`), or to a test set
(`--eval-only RUN`)."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from augment import eval_batch_size
from decode import UnfitImageError, image_files, left_out_in_words, name_errors, read_image
from flags import failures_reported, mistakes_refused
from training import in_words, start_scoring

BATCH = 64  # images
TOP = 5  # classes per image


def files_of(path):
    """An image file by itself, or the images below a folder, sorted. Raises ValueError if there is none."""
    if Path(path).is_file():
        return [str(path)]
    if not Path(path).exists():
        raise ValueError(f"--predict {path}: no such file or folder")
    files, left_out = image_files(path)
    note = left_out_in_words(path, left_out)
    if not files:
        raise ValueError(f"--predict {path}: no image in this folder{f' ({note})' if note else ''}")
    if note:
        print(f"train.py: {note}", file=sys.stderr)
    return sorted(files, key=Path)  # folder by folder


def read(file, image_size):
    """An image as training sees it, but for the augmentation: uint8 (3, image_size, image_size). Raises UnfitImageError."""
    pixels = np.array(name_errors(file, read_image, file, image_size))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@torch.no_grad()
def top_classes(model, imgs):
    """For each of uint8 images (B, 3, H, W), [(class, probability)], the most probable first."""
    probabilities, indices = model(imgs).float().softmax(1).topk(min(TOP, len(model.classes)))
    return [
        [(model.classes[i], p) for i, p in zip(*row, strict=True)]
        for row in zip(indices.tolist(), probabilities.tolist(), strict=True)
    ]


def predict(model, path, as_json, device):
    """Prints the top classes of each image, as lines or as one JSON list; images that cannot be read go to stderr.

    Returns the exit code: 1 if an image could not be read, else 0. Raises ValueError where there is no image at all.
    """
    files = files_of(path)
    model.to(device)
    unreadable, rows = 0, []
    n = min(BATCH, eval_batch_size(device, model.image_size))
    for start in range(0, len(files), n):
        names, imgs = [], []
        for file in files[start : start + n]:
            try:
                imgs.append(read(file, model.image_size))
                names.append(file)
            except UnfitImageError as error:
                unreadable += 1
                print(f"train.py: {error}", file=sys.stderr)
        for name, top in zip(names, top_classes(model, torch.stack(imgs).to(device)) if imgs else [], strict=True):
            if as_json:
                rows.append({"image": name, "top": [{"class": c, "probability": p} for c, p in top]})
            else:
                print(f"{name}: {', '.join(f'{c} {100 * p:.1f} %' for c, p in top)}")
    if as_json:
        print(json.dumps(rows, indent=1))
    return int(unreadable > 0)


def score_only(args, team, model, images, amp):
    """--eval-only: scores a trained network on the test set."""
    with mistakes_refused():
        if model.classes != images.classes:
            raise ValueError(
                f"{args.eval_only} has other classes than {args.dataset}: give its --dataset or --data-dir"
            )
        if model.image_size != images.image_size:
            raise ValueError(f"{args.eval_only} is for images of {model.image_size} pixels: give that as --image-size")
    net = model.net.to(team.device, memory_format=torch.channels_last)
    with failures_reported(trains=False):
        scores = start_scoring(net, images.test, model.mean, model.std, images, amp, team)()
    team.say(f"{args.eval_only} on {len(images.test):,} test images of {args.dataset}: {in_words(scores)}")
