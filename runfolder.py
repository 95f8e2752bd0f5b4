"""The folder of a run: its name, which run it belongs to, and what is in it already."""

import json
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from checkpoints import UnreadableError, load_checkpoint
from describe import shown
from flags import NEWER, NOT_IN_CONFIG, RESPELT
from tuning import START, flags_of

FINGERPRINTS = {"data": "fingerprint of the images", "content": "fingerprint of labels and pixels"}

# ------------------------------------------------------------------------------------------------- name and content


def run_config(args, amp, images):
    """What makes a run this run and no other: a folder that holds other values belongs to another run.

    data and content are fingerprints of the dataset, because its path and its files may change.
    """
    config = {name: value for name, value in vars(args).items() if name not in NOT_IN_CONFIG}
    config |= {"amp": str(amp or "off").removeprefix("torch.")}
    config |= {"data": images.fingerprint, "content": images.content_fingerprint}
    return json.loads(json.dumps(config))  # as result.json will hold it


def run_name(args):
    """The default name of a run's folder: arch, settings, where its weights come from, dataset, fold and seed."""
    settings = [f"{knob}={shown(value)}" for knob, value in args.settings.items()]
    start = [flag.replace("_", "-") for flag in START if getattr(args, flag)]
    fold = [f"fold{args.fold}of{args.folds}"] if args.folds else []
    return "-".join([args.arch, *settings, *start, args.dataset, *fold, f"seed{args.seed}"])


def look_at_folder(folder, config, of_comparison=False):
    """What is already in the run's folder: (its result or None, its checkpoint or None). A run with a result is finished.

    Raises ValueError if the folder belongs to another run, if its result.json is damaged, or if it has checkpoints and none can
    be read. With a constant schedule, more epochs than before are the same run: its learning rates do not depend on them, so it
    goes on. of_comparison: compare.sh asks; its user cannot give another --name.
    """
    result = None
    if (folder / "result.json").exists():
        try:
            result = json.loads((folder / "result.json").read_text())
        except ValueError:
            raise ValueError(f"{folder}/result.json is damaged: delete it, and start the same command again") from None
    saved = None if result else last_checkpoint(folder)
    recorded = result or (saved and saved["run"]) or config
    if is_longer(config, recorded) and (saved := saved or last_checkpoint(folder)):
        recorded = saved["run"]  # it may have been asked for more epochs
        result = None
        if is_longer(config, recorded):
            recorded = recorded | {"epochs": config["epochs"]}  # the run as it would have begun with more epochs
    recorded = NEWER | recorded | {"data": RESPELT.get(recorded.get("data"), recorded.get("data"))}
    others = [
        name
        for name, value in config.items()
        if (recorded.get(name) or None) != (value or None)  # a flag newer than that run was off in it
        and (name in recorded or name != "content")  # older runs lack it
    ]
    if others:
        told = [f"{FINGERPRINTS.get(name, name)} {recorded.get(name)} there, {config[name]} here" for name in others]
        remedy = remedy_for(others, config, recorded, folder, bool(result), of_comparison)
        raise ValueError(f"{folder} holds another run ({'; '.join(told[:3])}): {remedy}")
    return result, saved


def remedy_for(others, config, recorded, folder, is_finished, of_comparison):
    """What the user can do about a folder whose run differs from this one in the settings `others`."""
    if of_comparison:
        return "correct the settings, or choose another folder (OUT of compare.sh, --out of train.py)"
    match others:
        case ["amp"]:  # --amp auto, on another kind of machine
            amp = {"bfloat16": "bf16", "float16": "fp16"}.get(recorded["amp"], "off")
            return f"give --amp {amp} to go on with it"
        case ["lr" | "weight_decay" as name]:  # whose defaults may have changed
            return f"give {' '.join(flags_of(name, recorded))} to go on with it, or another --name"
        case ["epochs"] if is_finished and config["epochs"] > recorded.get("epochs", 0):
            return f"to train further from it, give --init-from {folder} --name NEW"
    return "give another --name, or delete that folder"


def is_longer(config, recorded):
    """Whether the config asks for more epochs, with a constant schedule, so that the earlier epochs stay the same."""
    constant = config["schedule"] == "constant" and not config["max_steps"]
    return constant and config["epochs"] > recorded.get("epochs", config["epochs"])


def stamp(folder):
    """The modification times of last.pt and result.json, which show whether another process has written since."""
    times = []
    for name in ("last.pt", "result.json"):
        with suppress(FileNotFoundError):  # missing, or just being replaced by its owner
            times.append((folder / name).stat().st_mtime_ns)
    return times


def last_checkpoint(folder):
    """The content of the newest checkpoint that can be read, or None. Raises ValueError if there are only damaged ones."""
    is_damaged, before = False, stamp(folder)
    for path in (folder / "last.pt", folder / "last.pt.previous"):
        if not path.exists():
            continue
        try:
            saved = load_checkpoint(path)
        except ValueError as error:
            if stamp(folder) != before:  # its owner has saved since
                return last_checkpoint(folder)
            if isinstance(error, UnreadableError):
                raise
            is_damaged = True
            print(f"train.py: {error}", file=sys.stderr)
            continue
        if is_damaged:
            (folder / "last.pt").rename(folder / "last.pt.damaged")  # or the next save would move it over the good one
        return saved
    if is_damaged:
        raise ValueError(
            f"no readable checkpoint in {folder}: remove the folder to start afresh, or give another --name"
        )
    return None


def commit():
    """The commit of this code, with -dirty if it was changed; None outside a git checkout."""
    here = Path(__file__).resolve().parent
    top = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)
    # the repository is named, as git does not look into one that belongs to another user
    git = ["git", "-C", str(here), f"--git-dir={top / '.git'}", f"--work-tree={top}"]
    try:
        commit = subprocess.run([*git, "rev-parse", "--verify", "HEAD"], capture_output=True, text=True).stdout.strip()
        # what a comparison writes into results/ is not code
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".", ":!results"], capture_output=True)
    except OSError:
        return None
    return commit + "-dirty" * (changed.returncode == 1) if commit else None


def begun(saved, **trained_by):
    """When a run began, and trained_by, each value after those that its checkpoint has: {"commit": "a1 and b2"}.

    saved: the checkpoint; None if the run begins now.
    """
    if not saved:
        return datetime.now(UTC).isoformat(timespec="seconds"), trained_by
    for name, value in trained_by.items():
        values = [*(saved.get(name) or "").split(" and "), value]  # older checkpoints lack some
        trained_by[name] = " and ".join(dict.fromkeys(filter(None, values))) or None
    return saved["started"], trained_by
