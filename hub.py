"""Trained networks on disk and on the hub: saved with their preprocessing and a model card, loaded strictly.

    python hub.py runs/NAME --export NAME.onnx    # or NAME.pt2: one file for other programs, see export.py

A model/ folder is what the hub expects: config.json (arch, settings, classes, preprocessing), model.safetensors and README.md.
"""

import argparse
import json
import os
import re
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

import checkpoints
import export
import flags
import machine
from models import build, canonical, parse_settings, settable
from models.resnet import LARGE_IMAGE
from models.vit import default_patch
from tuning import as_text

TAGS = ["image-classification", "resnet-grafts"]
CARD = """\
---
{front}
---

# {arch} on {dataset}

{params:,} parameters, {macs:,} multiply-accumulates for an image of {image_size}x{image_size} pixels; {classes} classes.
Trained on {n_train:,} images, scored on the {n_test:,} images of the test set:

| top-1, % | top-5, % | loss | expected calibration error, % |
| --: | --: | --: | --: |
| {top1:.2f} | {top5:.2f} | {loss:.4f} | {ece:.2f} |

## Load it

In a checkout of the code, with RGB images `(B, 3, {image_size}, {image_size})`, uint8 or floats from 0 to 1, which the network
normalizes itself:

```python
import hub
model = hub.load("PATH_OR_HUB_ID")  # this folder, or USER/NAME of the hub, or USER/NAME@TAG
probabilities = model(imgs).softmax(1)  # (B, {classes}), in the order of model.classes
```

## Recipe

{recipe}

On {world_size} x {device}, torch {torch}, {commits}.
"""


# tags: a copy, to which the mixin adds its own
class Classifier(nn.Module, PyTorchModelHubMixin, library_name="pytorch", tags=[*TAGS], license="mit"):
    """A network with the preprocessing it was trained with: images (B, 3, image_size, image_size) -> (B, classes) logits.

    Images are integers from 0 to 255, or floats from 0 to 1; other values and other shapes raise ValueError. mean and std: of
    the pixels, on the scale 0 to 255. Load one with hub.load(), not with the mixin's from_pretrained(): that loads a file with
    missing weights and says nothing, and falls back to pickles.
    """

    def __init__(self, arch: str, classes: list, settings: dict, image_size: int, mean: list, std: list):
        super().__init__()
        self.arch, self.settings = canonical(arch), parse_settings(arch, settings)
        self.net = build(self.arch, len(classes), self.settings, image_size)
        if len(classes) == 100 and classes[26] == "cra":  # CIFAR-100's crab in older models: see data.py
            classes = [*classes[:26], "crab", *classes[27:]]
        self.classes, self.image_size, self.mean, self.std = classes, image_size, mean, std

    def forward(self, imgs):
        if imgs.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(f"imgs must be (B, 3, {self.image_size}, {self.image_size}), got {tuple(imgs.shape)}")
        mean, std = (torch.tensor(v, device=imgs.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return self.net((on_scale_of_bytes(imgs) - mean) / std)


def on_scale_of_bytes(imgs):
    """Integers 0 to 255 or floats 0 to 1, as floats 0 to 255. Raises ValueError for others, such as normalized images."""
    if imgs.dtype == torch.uint8:
        return imgs.float()
    highest_known = 1 if imgs.is_floating_point() else 255
    if not torch.compiler.is_compiling():  # which cannot look at values
        lowest, highest = (value.item() for value in imgs.aminmax())
        if not 0 <= lowest <= highest <= highest_known:  # or nan
            raise ValueError(
                f"images are {imgs.dtype} of {lowest:g} to {highest:g}: give uint8 of 0 to 255, or floats of 0 to 1, not "
                f"normalized"
            )
    return imgs.float() * (255 / highest_known)


# --------------------------------------------------------------------------------------------------------------- save


def save(model, folder, recipe, result):
    """Writes a model/ folder. recipe: the flags of the run; result: what it measured. Raises OSError if the disk fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".tmp*"):  # of a process that was killed while safetensors wrote
        stale.unlink(missing_ok=True)
    # the card first: where there is none, the mixin adds one of its own
    checkpoints.write_atomically(folder / "README.md", card(model, recipe, result).encode(errors="backslashreplace"))
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # raised for a full disk
        raise OSError(f"cannot write {folder}/model.safetensors ({error})") from None
    # safetensors lets only the user read its file, whatever the umask; some disks have no modes
    with suppress(OSError):
        os.chmod(folder / "model.safetensors", (folder / "config.json").stat().st_mode)
    for name in ("config.json", "model.safetensors"):  # before result.json says that the run is finished
        with open(folder / name, "rb+") as file:
            os.fsync(file.fileno())
    machine.sync_folder(folder)


def card(model, recipe, result):
    """The model card: what was measured, how to load the network, and how it was trained."""
    scores = {"accuracy": ("top-1", result["top1"]), "top_5_accuracy": ("top-5", result["top5"])}
    foreign = recipe.get("pretrained") or recipe.get("init_from")  # weights that may have a license of their own
    front = ModelCardData(
        license=None if foreign else "mit",
        library_name="pytorch",
        tags=TAGS,
        model_name=model.arch,
        eval_results=[
            EvalResult("image-classification", result["dataset"], result["dataset"], metric, value, metric_name=name)
            for metric, (name, value) in scores.items()
        ],
    )
    start = recipe.get("init_from") or ""
    if os.path.isabs(start) or (start and Path(start).exists()):
        recipe = recipe | {"init_from": Path(start).name}  # not its path on this machine
    rows = "\n".join(f"| {name} | {value} |" for name, value in recipe.items())
    recipe = f"| setting | value |\n| --- | --- |\n{rows}"
    commits = f"commit{'s' * (' and ' in str(result['commit']))} {result['commit']}"
    added = {"front": front, "recipe": recipe, "image_size": model.image_size, "commits": commits}
    return str(ModelCard(CARD.format(**result | added)))


def push(folder, repo_id, tag):
    """Uploads a model/ folder to the hub and tags it; a tag of that name moves. Raises what the hub's client raises."""
    api = HfApi()
    api.create_repo(repo_id, private=True, exist_ok=True)  # a new one is for its owner to publish
    commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"Run {tag}")
    tag = re.sub(r"[^\w.,=+-]+", "-", tag)  # only what git allows in a tag stays
    if tag in {ref.name for ref in api.list_repo_refs(repo_id).tags}:
        api.delete_tag(repo_id, tag=tag)
    api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return f"{repo_id}@{tag}"


def push_finished(folder, repo_id):
    """Uploads a finished run's model/ with its name as tag. If the hub refuses it, the run is complete all the same."""
    try:
        print(f"pushed to the hub as {push(folder / 'model', repo_id, folder.name)}")
    except Exception as error:  # httpx or httpx2 errors, by the client's version, not OSErrors
        reason = flags.one_line(f"{type(error).__name__}: {error}")
        print(f"train.py: the hub did not take {folder}/model ({reason}); the run is complete, and the same command "
              "pushes it again", file=sys.stderr)  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- load


def load(path_or_id):
    """The Classifier, in eval mode, of a run's folder, its model/ folder, a checkpoint (last.pt) or a hub id.

    path_or_id: a path on disk takes precedence; a hub id is USER/NAME, or USER/NAME@TAG. Every weight must be there and
    fit the arch that config.json names, and no pickled code is run. Raises ValueError, in one line.
    """
    path = Path(path_or_id)
    return (from_checkpoint(path) if path.is_file() else from_folder(model_folder(path_or_id))).eval()


def model_folder(path_or_id):
    """A run's model/ folder, a hub id's, or the path itself. Raises ValueError."""
    path = Path(path_or_id)
    if not path.is_dir():
        return download(str(path_or_id))
    if not (path / "model" / "config.json").exists() and (path / "last.pt").exists():
        raise ValueError(f"{path} has no complete model/: finish the run, or give its last.pt")
    if not (path / "model").is_dir() and (path / "result.json").exists():
        raise ValueError(f"{path} holds the scores of a run without its weights, as results/ does: train it again")
    return path / "model" if (path / "model").is_dir() else path


def from_folder(folder):
    try:
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        # a tensor of several names is saved under one of them, and the metadata names the others
        with safe_open(folder / "model.safetensors", "pt") as file:
            weights |= {name: weights[kept] for name, kept in (file.metadata() or {}).items() if kept in weights}
        model = Classifier(**config)
        load_weights(model.net, {name.removeprefix("net."): value for name, value in weights.items()})
    except Exception as error:  # a missing, damaged or foreign file, each with its library's exception
        raise ValueError(f"{folder} is not a readable model folder ({flags.one_line(error)})") from None
    return model


def from_checkpoint(path):
    saved = checkpoints.load_checkpoint(path)
    if not isinstance(saved, dict) or not {"model", "state"} <= saved.keys():
        raise ValueError(f"{path} is not a checkpoint of train.py; those of other programs are not read")
    try:
        model = Classifier(**saved["model"])
        load_weights(model.net, saved["state"].get("ema") or saved["state"]["net"])
    except Exception as error:  # another program's file with the same two entries
        raise ValueError(f"{path} is not a checkpoint of train.py ({flags.one_line(error)})") from None
    return model


def download(path_or_id):
    """The folder with the hub's files, from an earlier download where the hub cannot be reached. Raises ValueError."""
    none_here = f"{path_or_id}: no such run, model folder or checkpoint"
    repo_id, _, revision = path_or_id.partition("@")
    if not re.fullmatch(flags.HUB_ID, repo_id):
        raise ValueError(f"{none_here}, nor a hub id USER/NAME")
    revision, problem = revision or None, None
    try:
        HfApi().model_info(repo_id, revision=revision, timeout=5)  # where this fails, a download would retry for 23 s
    except Exception as error:  # httpx or httpx2 errors, by the client's version, not OSErrors
        problem = error
    # the hub answered with a refusal, as it does to a bad or expired token
    if isinstance(problem, HfHubHTTPError) and problem.response.status_code in (401, 403, 404):
        raise ValueError(f"{none_here}, and the hub has none that you may read ({type(problem).__name__})")
    get = partial(snapshot_download, repo_id, revision=revision, local_files_only=problem is not None)
    try:
        config = Path(get(allow_patterns=["config.json"])) / "config.json"  # before weights, which may be large
        is_ours = config.exists() and {"arch", "classes"} <= json.loads(config.read_text()).keys()
        folder = get(allow_patterns=["config.json", "model.safetensors", "README.md"]) if is_ours else None
    except Exception as error:
        why = type(problem or error).__name__
        raise ValueError(f"{none_here}, and the hub could not provide it ({why})") from None
    if not is_ours:
        raise ValueError(
            f"{path_or_id} holds no network of this code: published weights come with --pretrained, as for --arch timm:NAME"
        )
    if problem:
        print(
            f"{path_or_id}: the hub was not reached ({type(problem).__name__}), so this is an earlier download",
            file=sys.stderr,
        )
    return Path(folder)


def load_weights(net, weights):
    """Loads weights into a net. Raises ValueError, with the first three misfits, unless names and shapes are the net's."""
    own = net.state_dict()
    misfits = [f"no {name}" for name in own if name not in weights]
    misfits += [f"an unknown {name}" for name in weights if name not in own]
    misfits += [
        f"{name} of shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise ValueError(f"the weights do not fit: {', '.join(misfits[:3])}{more}")
    net.load_state_dict(weights)


def start_from(model, net, head, arch, settings, classes, image_size):
    """Copies a Classifier's weights into a net of the same arch, those of its head only if the classes are the same.

    head: the names of its entries in the state_dict. Returns whether they were copied. Raises ValueError for another arch,
    other settings or weights that do not fit.
    """
    if model.arch != arch:
        raise ValueError(f"--init-from holds {model.arch}, this run is {arch}: give the same --arch and --set")
    if arch == "vit" and model.image_size != image_size:  # its positions belong to a size
        raise ValueError(f"--init-from holds vit for images of {model.image_size} pixels: give that as --image-size")
    theirs, ours = with_defaults(arch, model.settings, model.image_size), with_defaults(arch, settings, image_size)
    if differ := [name for name in ours if theirs[name] != ours[name]]:
        there, here = (", ".join(f"{name}={as_text(of[name])}" for name in differ) for of in (theirs, ours))
        needed = " ".join(f"--set {name}={as_text(theirs[name])}" for name in differ)
        raise ValueError(f"--init-from holds {arch} with {there}, this run has {here}: give {needed}")
    same_classes = model.classes == classes
    kept = {} if same_classes else {name: value for name, value in net.state_dict().items() if name in head}
    load_weights(net, model.net.state_dict() | kept)
    return same_classes


def with_defaults(arch, settings, image_size):
    """Every knob of an arch with its value; the ResNet's stem and ViT's patch as they are for images of that size."""
    values = {name: knob.default for name, knob in settable(arch).items()} | settings
    if values.get("resnet.stem") == "auto":
        values["resnet.stem"] = "imagenet" if image_size > LARGE_IMAGE else "cifar"
    if values.get("vit.patch") == 0:
        values["vit.patch"] = default_patch(image_size)
    return values


# ------------------------------------------------------------------------------------------------------------- export


def scores_of(folder):
    """What a model/ folder's run scored, from its result.json or else from the card: name -> value, {} if neither says."""
    result = folder.parent / "result.json"
    if folder.name == "model" and result.exists():
        row = json.loads(result.read_text())
        return {name: row[name] for name in ("dataset", "n_test", "top1", "top5", "loss", "ece") if name in row}
    if not (folder / "README.md").exists():
        return {}
    try:
        measured = ModelCard.load(folder / "README.md").data.eval_results or []
    except Exception:  # a card edited by hand; its scores are no part of the network
        return {}
    names = {"accuracy": "top1", "top_5_accuracy": "top5"}
    scores = {names[r.metric_type]: r.metric_value for r in measured if r.metric_type in names}
    return {"dataset": measured[0].dataset_name} | scores if scores else {}


def export_run(path_or_id, out):
    """Writes a finished run, a model/ folder or a hub id as one file and says how well it agrees. Raises ValueError."""
    path = Path(path_or_id)
    export.check_packages(out)
    if not out.parent.is_dir():
        raise ValueError(f"--export {out}: no folder {out.parent}: make it first")
    if path.is_file():
        raise ValueError(f"{path} is a checkpoint: give the folder of its run once that is finished")
    if (path / "last.pt").exists() and not (path / "result.json").exists():
        raise ValueError(f"{path} is an unfinished run: finish it, then export it")
    folder = model_folder(path_or_id)
    difference, largest = export.write(from_folder(folder).eval(), scores_of(folder), out)
    return (
        f"written: {out}; on {sum(export.CHECKED)} images it gives the network's classes, and its logits differ by "
        f"{difference:.1e} at most, where the largest is {largest:.2g}"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder, its model/ or a hub id")
    parser.add_argument(
        "--export", type=flags.path_of, required=True, metavar="FILE", help="the file to write, .onnx or .pt2"
    )
    parser.error = refuse = partial(flags.refuse, program="hub.py")
    args = parser.parse_args(argv)
    if args.export.suffix not in export.SUFFIXES:
        refuse(f"--export takes a file that ends in {' or '.join(export.SUFFIXES)}, got {args.export}")
    machine.keep_to_cores()
    try:
        print(export_run(args.run, args.export))
    except (OSError, ValueError) as error:
        refuse(error, code=1)


if __name__ == "__main__":
    main()
