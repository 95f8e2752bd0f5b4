"""A trained network as one file for other programs: ONNX for their runtimes, or .pt2 for PyTorch's own.

The file takes uint8 images (B, 3, H, W) of any batch B, normalizes them itself and gives logits (B, classes). Its
metadata are text: arch, image_size, and classes and scores as JSON. In a .pt2 they are the extra file metadata.json.
"""

import json
import logging
import math
import os
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import Dim

from models.libraries import first_line
from shapes import draw_shapes

SUFFIXES = (".onnx", ".pt2")
CHECKED = (1, 2, 7, 45, 45)  # batch sizes on which file and network are compared, 100 images in all
ROUNDING = 1e-4  # relative to the largest logit: classes this close may swap
METADATA = "metadata.json"


def missing_package():
    """The first package that ONNX needs and that is not installed, or None."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        return error.name
    return None


def check_packages(path):
    """Raises ValueError if what writes and runs the file is not installed."""
    missing = missing_package() if path.suffix == ".onnx" else None
    if missing:
        raise ValueError(f"--export {path} needs the package {missing}: pip install -r requirements-export.txt")


def write(model, scores, path):
    """Exports a Classifier and checks the file: returns (largest difference of a logit, largest logit).

    scores: name -> value, for the metadata. The file appears only if it agrees. Raises ValueError, in one line, for a
    network that cannot be traced and for a file that gives an image another class.
    """
    batches = draw_shapes(torch.arange(sum(CHECKED)), model.image_size, torch.Generator().manual_seed(0)).split(CHECKED)
    metadata = {
        "arch": model.arch,
        "image_size": str(model.image_size),
        "classes": json.dumps(model.classes),
        "scores": json.dumps(scores),
    }
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        pending = Path(folder) / path.name
        with one_line_errors(model.arch):
            run = (write_onnx if path.suffix == ".onnx" else write_pt2)(trace(model), metadata, pending)
            found = torch.cat([run(imgs) for imgs in batches])
        if len(os.listdir(folder)) > 1:
            raise ValueError(f"the weights of {model.arch} do not fit into one ONNX file: export a .pt2")
        agreement = compare(model, batches, found)
        os.replace(pending, path)
    return agreement


@contextmanager
def one_line_errors(arch):
    """Turns whatever keeps a network from being exported or run into a one-line ValueError; OSError stays."""
    try:
        with quiet(), torch.no_grad():
            yield
    except OSError:
        raise
    except Exception as error:  # each obstacle has an exception of its own
        raise ValueError(f"{arch} cannot be exported with a dynamic batch ({first_line(error)})") from None


def quiet():
    """Silences the exporters' remarks on their own internals. What matters is compared afterwards."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    return warnings.catch_warnings(action="ignore")


def trace(model):
    """The exported program of a Classifier, for any batch size."""
    imgs = torch.zeros(2, 3, model.image_size, model.image_size, dtype=torch.uint8)
    return torch.export.export(model, (imgs,), dynamic_shapes=({0: Dim("batch")},), strict=False)


def write_onnx(program, metadata, path):
    """Writes the file and returns it as a function, images -> logits: ONNX Runtime on PyTorch's number of threads."""
    import onnxruntime

    names = {"input_names": ["images"], "output_names": ["logits"]}
    onnx_program = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    onnx_program.model.metadata_props.update(metadata)
    onnx_program.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda imgs: torch.from_numpy(session.run(["logits"], {"images": imgs.numpy()})[0])


def write_pt2(program, metadata, path):
    """Writes the file, loads it and returns it as a function: images -> logits."""
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})
    return torch.export.load(path).module()


def compare(model, batches, found):
    """(Largest difference of a logit, largest logit). Raises ValueError if a class differs from the network's."""
    with torch.no_grad():
        expected = torch.cat([model(imgs) for imgs in batches])
    difference = (found - expected).abs().max().item()
    chosen = expected.gather(1, found.argmax(1, keepdim=True))[:, 0]
    margin = expected.amax(1) - chosen  # by which the network prefers its class to the file's
    n_changed = (margin > ROUNDING * expected.abs().max()).sum().item()
    if n_changed or not math.isfinite(difference):
        raise ValueError(
            f"the exported {model.arch} gives {n_changed} of {len(found)} images another class than the network (the "
            f"largest difference of a logit is {difference:.2g}): nothing is written"
        )
    return difference, expected.abs().max().item()
