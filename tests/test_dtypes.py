"""float32 and float64 in their own precision; float16 and bfloat16 computed in float32 and rounded once."""

import pytest
import torch

import fastsqrtm
import op_cases
from fastsqrtm import testing
from fastsqrtm.testing import results
from op_cases import OPS


def inputs(name, dtype, n=9):
    return op_cases.inputs(name, n, (2, 3), 5.0, dtype)


@pytest.mark.parametrize("n", [1, 9, 33])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_half_precisions_are_rounded_once(path, name, dtype, n):
    half = inputs(name, dtype, n)
    in_float32 = results(path(name)(*op_cases.cast(name, half, torch.float32)))
    for out, single in zip(results(path(name)(*half)), in_float32, strict=True):
        assert torch.equal(out, single.to(out.dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPS)
def test_result(path, name, dtype):
    arguments = inputs(name, dtype)
    found = results(path(name)(*arguments))
    exact = path(name)(*op_cases.cast(name, arguments, torch.float64))
    shapes = OPS[name].result_shapes(*(x.shape for x in arguments))
    for out, line, shape in zip(found, OPS[name].results, shapes, strict=True):
        assert (out.dtype, out.device, out.shape) == (line.dtype or dtype, arguments[0].device, shape)
        assert out.is_contiguous()
    bound = {torch.float64: 1e-15, torch.float32: 1e-5}.get(dtype, 1e-2)
    assert op_cases.largest_error(name, found, exact) < bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_half_precision_gradient_of_an_op(name, dtype):
    leaves = [x.requires_grad_(x.is_floating_point()) for x in op_cases.inputs(name, 6, (), 3.0, dtype)]
    exact = [x.detach().to(torch.promote_types(x.dtype, torch.float64)).requires_grad_() for x in leaves]
    for tensors in (leaves, exact):
        sum(out.sum() for out in op_cases.differentiable(name)(*tensors)).backward()
    for ours, theirs in zip(leaves, exact, strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert ours.grad.dtype == dtype
            error = torch.linalg.vector_norm(ours.grad.double() - theirs.grad)
            assert error < 0.03 * torch.linalg.vector_norm(theirs.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["mpa_lya", "mtp_lya", "mpa_lya_inv", "mtp_lya_inv", "sqrtm", "inv_sqrtm"])
def test_half_precision_gradient(name, dtype):
    A = testing.spd(6, kappa=3, dtype=dtype).requires_grad_()
    exact = A.detach().double().requires_grad_()
    getattr(fastsqrtm, name)(A).sum().backward()
    getattr(fastsqrtm, name)(exact).sum().backward()
    assert A.grad.dtype == dtype
    assert testing.relative_error(A.grad, exact.grad) < 0.03
