"""The polar decomposition: as accurate as by singular values, its derivatives, and matrices without full rank."""

import functools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

import fastsqrtm
from fastsqrtm import nearest_orthogonal, polar
from fastsqrtm._reference.polar import by_root_and_turns
from fastsqrtm.testing import relative_error

DOUBLE, COMPLEX = torch.float64, torch.complex128
SHAPES = [(4, 4), (33, 33), (40, 12), (12, 40), (7, 1), (1, 5)]


def matrices(m, n, kappa=10.0, batch=(3,), dtype=DOUBLE, seed=0):
    """A and its factor U, by a random singular value decomposition."""
    generator = torch.Generator().manual_seed(seed)
    precise = COMPLEX if dtype.is_complex else DOUBLE
    k = min(m, n)
    W, V = (torch.linalg.qr(torch.randn(*batch, size, k, generator=generator, dtype=precise)).Q for size in (m, n))
    values = kappa ** -torch.linspace(0, 1, k, dtype=DOUBLE)
    return (W * values @ V.mH).to(dtype), W @ V.mH


def by_svd(A):
    W, _, Vh = torch.linalg.svd(A, full_matrices=False)
    return W @ Vh


def defect(U):
    """The distance of U^H U, or of U U^H, from the identity."""
    U = U.to(COMPLEX)
    N = U.mH @ U if U.shape[-2] >= U.shape[-1] else U @ U.mH
    return torch.linalg.matrix_norm(N - torch.eye(N.shape[-1]))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.complex64, COMPLEX])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_errors_are_those_of_singular_values(shape, dtype):
    single = dtype in (torch.float32, torch.complex64)
    eps = torch.finfo(dtype).eps
    for kappa in (1.0, 1e2, 1e4, 1e6) if single else (1.0, 1e3, 1e6, 1e12):
        A, U = matrices(*shape, kappa, dtype=dtype)
        U = by_svd(A.to(COMPLEX if dtype.is_complex else DOUBLE)) if single else U
        found = polar(A)
        assert found.U.dtype == found.P.dtype == dtype
        error, svd = (relative_error(x, U).max() for x in (found.U, by_svd(A)))
        assert error <= 3 * svd + 4 * eps, kappa
        assert (defect(found.U) <= 8 * eps * min(shape)).all(), kappa
        assert torch.equal(found.P, found.P.mH)
        assert (relative_error(found.U @ found.P, A) <= 32 * eps * min(shape) ** 0.5).all(), kappa
        if shape[0] >= shape[1]:
            assert (torch.linalg.eigvalsh(found.P) >= -8 * eps).all()


@pytest.mark.parametrize("m, n", [(8, 8), (24, 24), (30, 6)])
def test_turns_give_the_digits_back_that_squaring_lost(m, n):
    """What a GPU does in float64."""
    for kappa in (1.0, 1e2, 1e5, 1e7):
        A, U = matrices(m, n, kappa)
        found, accurate = by_root_and_turns(A)
        assert accurate.all()
        assert relative_error(found, U).max() <= 6 * relative_error(by_svd(A), U).max() + 1e-15
        assert (defect(found) < 1e-13).all()
    assert not by_root_and_turns(matrices(m, n, 1e12)[0])[1].any()
    assert not by_root_and_turns(torch.zeros(m, n, dtype=DOUBLE))[1].any()


def exact_derivative(A, D):
    """That of U along D, in the basis of singular vectors; m >= n."""
    W, s, Vh = torch.linalg.svd(A, full_matrices=False)
    M = W.mT @ D @ Vh.mT
    inside = W @ ((M - M.mT) / (s[..., :, None] + s[..., None, :])) @ Vh
    return inside + (D - W @ (W.mT @ D)) @ (Vh.mT / s[..., None, :]) @ Vh


@pytest.mark.parametrize("m, n", [(6, 6), (9, 5)])
@pytest.mark.parametrize("dtype, kappa", [(torch.float32, 1e2), (torch.float32, 1e5), (DOUBLE, 1e6), (DOUBLE, 1e11)])
def test_gradients_over_condition_numbers(dtype, kappa, m, n):
    A = matrices(m, n, kappa, dtype=dtype)[0].requires_grad_()
    G = torch.randn(3, m, n, generator=torch.Generator().manual_seed(1), dtype=dtype)
    (gradient,) = torch.autograd.grad(nearest_orthogonal(A), A, G)
    error = relative_error(gradient, exact_derivative(A.detach().double(), G.double()))
    assert (error < 30 * kappa * torch.finfo(dtype).eps).all()


STEPS = functools.partial(nearest_orthogonal, steps=3)


@pytest.mark.parametrize(
    "function, shape, dtype",
    [
        (polar, (3, 3), DOUBLE),
        (polar, (4, 2), DOUBLE),
        (polar, (2, 3), DOUBLE),
        (polar, (1, 1), COMPLEX),
        (polar, (2, 2), COMPLEX),
        (nearest_orthogonal, (3, 2), COMPLEX),
        (STEPS, (2, 3), DOUBLE),
        (STEPS, (2, 1), COMPLEX),
    ],
)
def test_derivatives_to_second_order_and_forward_mode(function, shape, dtype):
    A = matrices(*shape, 3.0, (2,), dtype, seed=2)[0].requires_grad_()
    assert gradcheck(function, A, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, A)


def test_a_third_derivative():
    A = matrices(2, 2, 3.0, ())[0].requires_grad_()

    def second(A):
        (first,) = torch.autograd.grad(nearest_orthogonal(A).sin().sum(), A, create_graph=True)
        return torch.autograd.grad(first.square().sum(), A, create_graph=True)[0]

    assert gradcheck(second, A)


@pytest.mark.parametrize("shape, dtype", [((4, 4), DOUBLE), ((5, 3), COMPLEX), ((3, 5), DOUBLE)])
def test_transforms_and_compiled_graphs(shape, dtype):
    A = matrices(*shape, dtype=dtype)[0]
    D = matrices(*shape, dtype=dtype, seed=1)[0]

    def loss(A):
        U, P = polar(A * (1 + 0 * A.sum()))
        return (U.real.sin() + U.abs()).sum() + P.abs().square().sum() + nearest_orthogonal(A, 3).real.sin().sum()

    leaf = A.clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(vmap(loss)(A).sum(), loss(A[0]) + loss(A[1]) + loss(A[2]))
    each = torch.stack([grad(loss)(a) for a in A])
    torch.testing.assert_close(vmap(grad(loss))(A), each)
    along = jvp(loss, (A,), (D,))[1]
    torch.testing.assert_close(along, (gradient.conj() * D).real.sum())
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    other = A.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(compiled(other), other)[0], gradient)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, COMPLEX])
@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (4, 7)], ids=str)
def test_without_full_rank_the_factor_is_a_partial_isometry(shape, dtype):
    W, _ = matrices(shape[0], 2, dtype=dtype)
    V, _ = matrices(shape[1], 2, dtype=dtype, seed=1)
    exact = torch.zeros(3, *shape, dtype=dtype)
    exact[:, :2, :2] = matrices(2, 2, dtype=dtype)[0]  # the zeros stay zeros in every precision
    tolerance = {"rtol": 0, "atol": 1e3 * torch.finfo(dtype).eps}
    for A in (exact, W @ V.mH) if dtype != torch.float32 else (exact,):
        A = A.clone().requires_grad_()
        U, P = polar(A)
        torch.testing.assert_close(U @ P, A, **tolerance)
        torch.testing.assert_close(U @ U.mH @ U, U, **tolerance)
        assert torch.allclose(torch.linalg.matrix_norm(U) ** 2, torch.tensor(2.0, dtype=U.real.dtype))
        (gradient,) = torch.autograd.grad(U, A, torch.ones_like(U))
        assert gradient.isfinite().all()
        assert (gradient.abs() < 1e3).all()
    zero = torch.zeros(shape, dtype=dtype, requires_grad=True)
    U, P = polar(zero)
    assert U.count_nonzero() == P.count_nonzero() == 0
    assert torch.autograd.grad(U, zero, torch.ones_like(U))[0].count_nonzero() == 0


def test_one_singular_value_may_be_zero():
    """Square matrices: the rotation of the others has a derivative, since no sum of two singular values is zero."""
    A = torch.diag(torch.tensor([2.0, 1.0, 1e-13], dtype=DOUBLE)).requires_grad_()
    D = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    (gradient,) = torch.autograd.grad(nearest_orthogonal(A), A, D)
    s = A.detach().diagonal()
    expected = (D - D.mT) / (s[:, None] + s)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales_nan_and_neighbours(scale):
    A, U = matrices(5, 3, dtype=torch.float32)
    torch.testing.assert_close(polar(scale * A).U, U.float())
    torch.testing.assert_close(nearest_orthogonal(scale * A, 8), U.float())
    for bad in (torch.nan, torch.inf):
        B = A.clone()
        B[1, 0, 0] = bad
        U, P = polar(B)
        assert U[1].isnan().all()
        assert P[1].isnan().all()
        torch.testing.assert_close(U[[0, 2]], polar(A).U[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions(dtype):
    A = matrices(6, 4, 5.0, dtype=dtype)[0]
    U, P = polar(A)
    wide = polar(A.float())
    assert U.dtype == P.dtype == dtype
    assert torch.equal(U, wide.U.to(dtype))
    assert torch.equal(P, wide.P.to(dtype))
    values = torch.linalg.svdvals(nearest_orthogonal(A, steps=8).float())
    assert (values - 1).abs().max() < 4 * torch.finfo(dtype).eps
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(polar(A).U, wide.U)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0), (0, 0)], ids=str)
def test_empty(shape):
    A = torch.ones(shape, requires_grad=True)
    U, P = polar(A)
    assert U.shape == shape
    assert P.shape == (*shape[:-2], shape[-1], shape[-1])
    assert nearest_orthogonal(A, 2).shape == shape
    assert torch.autograd.grad(U.sum(), A)[0].shape == shape


def test_steps_follow_the_minimax_polynomials():
    """The errors that the docstring promises, on singular values over all of [1e-3, 1]."""
    s = torch.logspace(-3, 0, 400, dtype=DOUBLE)
    s[-1] = (1 - s[:-1].square().sum() / s[:-1].square().sum() / 4) ** 0.5
    for value in s[::40]:
        A = torch.diag(torch.stack((value, (1 - value**2).sqrt())))
        for steps, error in ((3, 0.861), (4, 0.547), (5, 0.114), (6, 1e-3), (8, 1e-12)):
            diagonal = nearest_orthogonal(A, steps).diagonal()
            assert (diagonal - 1).abs().max() <= error, (value, steps)


def test_errors():
    for call, text in (
        (lambda: polar(torch.ones(3)), r"fastsqrtm.polar: A must be \(..., m, n\), got \(3,\)"),
        (lambda: polar(torch.ones(3, 3, dtype=torch.int32)), "must be float16, .* or complex128, got int32"),
        (lambda: nearest_orthogonal([[1.0]]), "fastsqrtm.nearest_orthogonal: A must be a tensor, got list"),
        (lambda: nearest_orthogonal(torch.eye(2), 0), "steps must be from 1 to 20, got 0"),
        (lambda: nearest_orthogonal(torch.eye(2), 2.5), "steps must be a whole number, got 2.5"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call()


@pytest.mark.parametrize("name, shapes", [("polar_factor", [(2, 4, 3)]), ("semidefinite_lyapunov", [(2, 3, 3)] * 2)])
def test_opcheck(name, shapes):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator, dtype=DOUBLE) for shape in shapes]
    if name != "polar_factor":
        inputs[0] = inputs[0] @ inputs[0].mT
    fastsqrtm.testing.opcheck(name, tuple(x.requires_grad_() for x in inputs))
