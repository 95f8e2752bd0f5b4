"""models/ops/grouped.py: a grouped convolution as a dense one, against torch's."""

import pytest
import torch
import torch.nn.functional as F

from models.ops.grouped import FEW, Grouped, dense
from models.resnet import ConvBN
from tests.test_kernels import traced


@pytest.mark.parametrize(("in_ch", "out_ch", "groups"), [(6, 4, 2), (4, 12, 4), (6, 6, 6), (5, 3, 1)])
def test_dense_weights_give_the_grouped_convolution_and_its_gradients(in_ch, out_ch, groups):
    x = torch.randn(2, in_ch, 7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(out_ch, in_ch // groups, 3, 3, dtype=torch.float64, requires_grad=True)
    by_groups = F.conv2d(x, weight, stride=2, padding=1, groups=groups)
    as_dense = F.conv2d(x, dense(weight, groups), stride=2, padding=1)
    back = torch.randn_like(by_groups)
    torch.testing.assert_close(as_dense, by_groups)
    expected = torch.autograd.grad(by_groups, (x, weight), back)
    torch.testing.assert_close(torch.autograd.grad(as_dense, (x, weight), back), expected)


def test_on_a_cpu_it_is_torchs():
    conv = Grouped(8, 4, 3, 2, 1, groups=2, bias=False)
    x = torch.randn(2, 8, 7, 7)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, None, 2, 1, groups=2))


@pytest.mark.parametrize(("ch", "is_dense"), [(16, True), (2 * FEW, False)])
def test_on_a_gpu_groups_of_few_channels_are_dense(ch, is_dense):
    layers = torch.nn.Sequential(torch.nn.Conv2d(16, ch, 1), ConvBN(ch, ch, groups=2))
    operators, _ = traced(layers)
    assert ("aten.cat.default" in operators) == is_dense
