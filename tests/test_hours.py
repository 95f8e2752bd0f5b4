"""hours.py: how long runs take, at speeds that were measured."""

from hours import hours_of
from names import parts_of


def test_hours_are_those_of_the_network_however_it_is_written():
    rows = [
        {"arch": "eca_ghostnet_resnet", "settings": {"ghostnet.ratio": 3}, "train_imgs_per_s": 10.0},
        {
            "arch": "hornet_resnet",
            "settings": {"hornet.orders": [1, 2, 3], "hornet.scale": 1e-6},
            "train_imgs_per_s": 5.0,
        },
        {"arch": "segnext_resnet", "settings": {"segnext.pointwise": False}, "train_imgs_per_s": 2.0},
    ]
    runs = [
        "ghostnet_eca_resnet:ghostnet.ratio=3:--lr=0.4",
        "hornet_resnet:hornet.scale=1e-6:hornet.orders=1,2,3",
        "segnext_resnet:segnext.pointwise=false",
    ]
    networks = {run: parts_of(run)[:2] for run in runs}
    assert hours_of(networks, rows, 36_000) == dict(zip(runs, [1.0, 2.0, 5.0], strict=True))
    assert hours_of(networks | {"another": ("eca_ghostnet_resnet", {})}, rows, 36_000) == {}
