"""Every architecture, small enough to be traced and exported in a test, and the knobs that change what it computes."""

from models import METHODS
from models.prenorm import ReplacingFamily

SLIM = {"resnet.depth": 8, "resnet.width": 16}
DEEPER = SLIM | {"resnet.depth": 14}  # in which a stage has a block that keeps the shape
COMBINED = [
    ("eca_ghostnet_resnet", SLIM),
    ("cspnet_hornet_resnet", SLIM),
    ("cspnet_eca_ghostnet_resnet", SLIM),
    ("ghostnet_gmlp_segnext_resnet", DEEPER),
    ("hornet_resnet18", {"resnet.width": 16}),
]
SMALL = [
    ("resnet", SLIM),
    *((f"{name}_resnet", DEEPER if issubclass(row.make, ReplacingFamily) else SLIM) for name, row in METHODS.items()),
    *COMBINED,
    ("eca_resnet50", {"resnet.width": 8}),
    ("plain20", {"resnet.width": 8}),
    ("vit", {"vit.depth": 2, "vit.width": 48}),
    ("vgg16", {}),
    ("googlenet", {}),
    ("alexnet", {}),
    ("lenet", {}),
    ("linear", {}),
]
KNOBS = [
    ("multiscale_resnet", SLIM | {"multiscale.form": "depthwise"}),
    ("multiscale_resnet", SLIM | {"multiscale.form": "cascade"}),
    ("ghostnet_resnet", SLIM | {"ghostnet.ratio": 4}),
    ("hornet_resnet", SLIM | {"hornet.gate": "gf"}),
    ("resnest_resnet", SLIM | {"resnest.cardinality": 2}),
    ("lsknet_resnet", SLIM | {"lsknet.selection": "channel"}),
    ("segnext_resnet", SLIM | {"segnext.branch": "lka"}),
    ("segnext_resnet", SLIM | {"segnext.branch": "square"}),
    ("coatnet_resnet", SLIM | {"coatnet.layout": "TTT"}),
    ("coatnet_resnet", SLIM | {"coatnet.relative_bias": False}),
    ("gmlp_resnet", DEEPER | {"gmlp.gate": "whole"}),
    ("resnet", SLIM | {"resnet.drop_path": 0.2}),
]
