"""float32 and float64 in their own precision; float16 and bfloat16 computed in float32 and rounded once."""

import pytest
import torch

import fastsqrtm
from fastsqrtm import testing

OPS = testing.OPS


def inputs(name, dtype, n=9):
    A = testing.spd(n, kappa=5, batch=(2, 3), dtype=torch.float64)
    S, Z = (testing.exact_sqrtm(A, power) for power in (0.5, -0.5))
    G = torch.randn(2, 3, n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tensors = {"A": A, "S": S, "Z": Z, "B": S, "C": G, "G": G, "H": G}
    return [tensors[letter].to(dtype) for letter in OPS[name].names]


@pytest.mark.parametrize("n", [1, 9, 33])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_half_precisions_are_rounded_once(path, name, dtype, n):
    half = inputs(name, dtype, n)
    in_float32 = testing.results(path(name)(*(x.float() for x in half)))
    for out, single in zip(testing.results(path(name)(*half)), in_float32, strict=True):
        assert torch.equal(out, single.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPS)
def test_result(path, name, dtype):
    arguments = inputs(name, dtype)
    found = testing.results(path(name)(*arguments))
    in_float64 = testing.results(path(name)(*(x.double() for x in arguments)))
    shapes = OPS[name].result_shapes(*(x.shape for x in arguments))
    for out, exact, shape in zip(found, in_float64, shapes, strict=True):
        assert (out.dtype, out.device, out.shape) == (dtype, arguments[0].device, shape)
        assert out.is_contiguous()
        assert testing.relative_error(out, exact).max() < {torch.float64: 1e-15, torch.float32: 1e-5}.get(dtype, 1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["mpa_lya", "mtp_lya", "mpa_lya_inv", "mtp_lya_inv", "sqrtm", "inv_sqrtm"])
def test_half_precision_gradient(name, dtype):
    A = testing.spd(6, kappa=3, dtype=dtype).requires_grad_()
    exact = A.detach().double().requires_grad_()
    getattr(fastsqrtm, name)(A).sum().backward()
    getattr(fastsqrtm, name)(exact).sum().backward()
    assert A.grad.dtype == dtype
    assert testing.relative_error(A.grad, exact.grad) < 0.03
