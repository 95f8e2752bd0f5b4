"""models/ops/bfloat16.py against PyTorch's own bfloat16, on whatever processor the tests run."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import engine
from models import build
from models.ops import bfloat16
from models.ops.bfloat16 import AutocastInFloat32
from tests.nets import COMBINED, SMALL

ULP = 2**-7  # the spacing of bfloat16 between 1 and 2
CALLS = {
    "conv1d": (torch.conv1d, [(2, 3, 9), (4, 3, 3)]),
    "conv2d": (torch.conv2d, [(2, 3, 9, 9), (4, 3, 3, 3), (4,)]),
    "linear": (F.linear, [(5, 7), (3, 7), (3,)]),
    "bmm": (torch.bmm, [(2, 3, 7), (2, 7, 5)]),
    "matmul": (torch.matmul, [(3, 7), (7, 5)]),
    "operator": (lambda a, b: a @ b, [(2, 3, 7), (7, 5)]),
    "attention": (F.scaled_dot_product_attention, [(1, 2, 5, 8)] * 3),
}


@pytest.fixture
def without_bfloat16(monkeypatch):
    monkeypatch.setattr(bfloat16, "is_native", lambda: False)


def output_and_gradients(context, call, operands):
    operands = [operand.clone().requires_grad_() for operand in operands]
    with context:
        out = call(*operands)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype))
    return [out, *(operand.grad for operand in operands)]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_bfloat16(name, dtype):
    call, shapes = CALLS[name]
    torch.manual_seed(0)
    operands = [torch.randn(shape).to(dtype) for shape in shapes]
    found = output_and_gradients(AutocastInFloat32(), call, operands)
    expected = output_and_gradients(torch.autocast("cpu", torch.bfloat16), call, operands)
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == wanted.dtype
        # attention rounds in between as well; sums of another order may end in the neighbouring number
        atol = (4 if name == "attention" else 1) * ULP * wanted.abs().max().item()
        torch.testing.assert_close(value, wanted, rtol=0, atol=atol)


def test_operands_are_rounded_and_sums_only_once():
    with AutocastInFloat32():
        assert (torch.tensor([[1 + 2**-9, 1]]) @ torch.tensor([[128.0], [-128]])).item() == 0
        assert (torch.ones(1, 3) @ torch.tensor([[1], [2**-8], [2**-8]])).item() == 1 + 2**-7
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_what_autocast_leaves_alone_stays(dtype):
    x = 1_000_003 * torch.eye(2, dtype=dtype)
    with AutocastInFloat32():
        out = torch.matmul(input=x, other=x)
    assert out.dtype == dtype and torch.equal(out, x @ x)


class Products(TorchDispatchMode):
    """Notes the products that PyTorch computes from bfloat16 tensors."""

    def __init__(self):
        super().__init__()
        self.slow = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_product = any(word in func.name() for word in ("convolution", "conv2d", "mm", "attention", "dot"))
        if is_product and any(isinstance(arg, torch.Tensor) and arg.dtype == torch.bfloat16 for arg in args):
            self.slow.add(func.name())
        return func(*args, **(kwargs or {}))


LARGE = ("vgg16", "googlenet")  # of convolutions and linear layers, as others are
DISTINCT = [net for net in SMALL if net not in COMBINED and net[0] not in LARGE]


@pytest.mark.parametrize(("arch", "settings"), DISTINCT)
def test_networks_compute_no_product_in_bfloat16(arch, settings, without_bfloat16):
    """Nor do their gradients."""
    torch.manual_seed(0)
    net = build(arch, 10, settings, 32).to(memory_format=torch.channels_last).train()
    imgs = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with Products() as products:
        with engine.autocast(imgs.device, torch.bfloat16):
            logits = net(imgs)
        logits.float().logsumexp(1).sum().backward()
    assert logits.dtype == torch.bfloat16
    assert not products.slow
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_the_count_of_products_can_fail():
    with Products() as products, torch.autocast("cpu", torch.bfloat16):
        torch.randn(2, 3) @ torch.randn(3, 2)
    assert products.slow


def test_autocast_is_torchs_where_bfloat16_is_native(monkeypatch, without_bfloat16):
    cpu = torch.device("cpu")
    assert isinstance(engine.autocast(cpu, torch.bfloat16), AutocastInFloat32)
    for amp in (None, torch.float16):
        assert isinstance(engine.autocast(cpu, amp), torch.autocast)
    monkeypatch.setattr(bfloat16, "is_native", lambda: True)
    assert isinstance(engine.autocast(cpu, torch.bfloat16), torch.autocast)


@pytest.mark.parametrize(
    "avx512,avx512_bf16,onednn,native",
    [
        (True, True, True, True),
        (True, False, True, False),  # oneDNN accepts bfloat16, and is slower with it than with float32
        (False, False, True, True),  # not x86, or AVX2 with bfloat16
        (False, False, False, False),
    ],
)
def test_native_is_what_has_instructions(monkeypatch, avx512, avx512_bf16, onednn, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert bfloat16.is_native() == native
