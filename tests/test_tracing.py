"""Every network in torch.fx and torch.compile; tests/test_export.py has torch.export."""

import pytest
import torch

from models import build
from tests.nets import KNOBS, SMALL


def imgs_of(n):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize(("arch", "settings"), [*SMALL, *KNOBS])
def test_fx_traces_every_network(arch, settings):
    """In training too, where the same seed drops the same paths."""
    torch.manual_seed(0)
    net = build(arch, 7, settings)
    for train in (False, True):
        graph = torch.fx.symbolic_trace(net.train(train))
        for n in (2, 3) if train else (1, 3):  # batch norm learns nothing from a single pixel
            with torch.no_grad():
                torch.manual_seed(n)
                out = graph(imgs_of(n))
                torch.manual_seed(n)
                assert torch.equal(out, net(imgs_of(n)))


@pytest.mark.parametrize("arch", ["coatnet_resnet", "hornet_resnet", "lsknet_resnet", "resnest_resnet", "vit"])
def test_compile_makes_one_graph_for_two_batch_sizes(arch):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    net = build(arch, 7, dict(SMALL)[arch])
    model = torch.compile(net, backend=count, fullgraph=True)
    for n in (4, 6):
        imgs = imgs_of(n)
        torch._dynamo.mark_dynamic(imgs, 0)  # and no other size, which takes many times longer
        model(imgs)
    assert len(graphs) == 1
