"""The principal root of matrices that need not be symmetric, against SciPy's, and its derivatives."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

import fastsqrtm
from fastsqrtm import general_root_info, sqrtm_general
from fastsqrtm.testing import relative_error

scipy_linalg = pytest.importorskip("scipy.linalg")

DOUBLE, COMPLEX = torch.float64, torch.complex128


def matrices(n, kind="shifted", batch=(2,), dtype=DOUBLE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    precise = COMPLEX if dtype.is_complex else DOUBLE
    R = torch.randn(*batch, n, n, generator=generator, dtype=precise)
    if kind == "shifted":  # eigenvalues in a disk around 1.5
        return (R / max(n, 1) ** 0.5 + 1.5 * torch.eye(n)).to(dtype)
    if kind == "exponential":  # of both signs of the real part
        return torch.matrix_exp(1.3 * R / n**0.5).to(dtype)
    if kind == "triangular":  # far from normal
        return (R.triu(1) / 2 + torch.diag_embed(10 ** (-3 * torch.rand(*batch, n, generator=generator)))).to(dtype)
    values = 10 ** -torch.linspace(0, 6, n, dtype=DOUBLE)  # graded
    return torch.linalg.solve(R, R * values, left=False).to(dtype) if kind == "graded" else None


def by_scipy(A):
    """In the precision of A, and the residual of it as ours is measured."""
    root = np.stack([scipy_linalg.sqrtm(a) for a in A.resolve_conj().numpy()])
    return torch.from_numpy(root if A.is_complex() else root.real.copy())


@pytest.mark.parametrize("n", [1, 2, 5, 10, 16, 33])
@pytest.mark.parametrize("kind", ["shifted", "exponential", "triangular", "graded"])
@pytest.mark.parametrize("dtype", [DOUBLE, COMPLEX])
def test_the_residual_is_no_larger_than_scipys(kind, n, dtype):
    if kind == "triangular" and (n == 33 or (n == 16 and dtype == COMPLEX)):
        pytest.skip("singular to working precision: the condition number is 5e18, or 1e40")
    A = matrices(n, kind, dtype=dtype)
    X = sqrtm_general(A)
    assert X.dtype == dtype
    residual, scipy = (general_root_info(A, root).residual.max() for root in (X, by_scipy(A)))
    assert residual <= scipy + 2e-16
    assert general_root_info(A, X).converged.all()
    assert (torch.linalg.eigvals(X).real > 0).all()
    if kind != "triangular":
        condition = torch.linalg.cond(A).max()
        assert relative_error(X, by_scipy(A)).max() < 1e-14 * condition


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
def test_lower_precisions_are_the_rounded_root(dtype):
    """They do without the Newton step, so every number of steps of the iteration has to be enough."""
    A = matrices(6, batch=(100,), dtype=dtype) + 1.5 * torch.eye(6, dtype=dtype)
    wide = sqrtm_general(A.to(COMPLEX if dtype.is_complex else DOUBLE))
    X = sqrtm_general(A)
    assert X.dtype == dtype
    assert (relative_error(X, wide) < torch.finfo(dtype).eps).all()


def test_the_root_of_a_symmetric_matrix_is_that_of_sqrtm():
    A = fastsqrtm.testing.spd(12, 1e4, (2,), dtype=DOUBLE)
    assert (relative_error(sqrtm_general(A), fastsqrtm.sqrtm(A)) < 1e-12).all()
    leaf = A.clone().requires_grad_()
    G = fastsqrtm.testing.spd(12, 3.0, dtype=DOUBLE, seed=1)
    gradients = [torch.autograd.grad((root(leaf) * G).sum(), leaf)[0] for root in (sqrtm_general, fastsqrtm.sqrtm)]
    assert (relative_error(*gradients) < 1e-10).all()


def test_turns_up_to_the_negative_axis():
    for distance in (1.0, 1e-2, 1e-4):
        angle = torch.tensor(torch.pi - distance, dtype=DOUBLE)
        turn = lambda t: torch.stack((t.cos(), -t.sin(), t.sin(), t.cos())).reshape(2, 2)  # noqa: E731
        X = sqrtm_general(turn(angle))
        assert torch.allclose(X, turn(angle / 2), atol=1e-15 / distance)
        number = torch.polar(torch.ones(1, dtype=DOUBLE), angle[None]).reshape(1, 1)
        assert torch.allclose(sqrtm_general(number), number.sqrt(), atol=1e-15 / distance)


def test_where_there_is_no_principal_root():
    generator = torch.Generator().manual_seed(0)
    R = torch.randn(4, 4, generator=generator, dtype=DOUBLE)
    bad = [
        -torch.eye(4, dtype=DOUBLE),
        torch.linalg.solve(R, R * torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=DOUBLE), left=False),
        torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=DOUBLE)),
        torch.ones(4, 4, dtype=DOUBLE).triu(1),  # nilpotent
        torch.full((4, 4), torch.nan, dtype=DOUBLE),
        torch.full((4, 4), torch.inf, dtype=DOUBLE),
    ]
    good = [matrices(4, batch=()), torch.zeros(4, 4, dtype=DOUBLE)]
    A = torch.stack(bad + good).requires_grad_()
    for B in (A, A.to(COMPLEX)):
        X = sqrtm_general(B)
        assert X[:6].isnan().flatten(1).all(1).all()
        assert torch.allclose(X[6] @ X[6], B[6])
        assert X[7].count_nonzero() == 0
        info = general_root_info(B, X)
        assert info.converged.tolist() == [False] * 6 + [True] * 2
    (gradient,) = torch.autograd.grad(sqrtm_general(A).sum(), A)
    assert gradient[6].isfinite().all()
    assert gradient[7].count_nonzero() == 0


@pytest.mark.parametrize("n, dtype", [(3, DOUBLE), (1, COMPLEX), (2, COMPLEX)])
def test_derivatives_to_second_order_and_forward_mode(n, dtype):
    A = matrices(n, dtype=dtype).requires_grad_()
    assert gradcheck(sqrtm_general, A, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(sqrtm_general, A)


@pytest.mark.parametrize("kind", ["exponential", "graded", "triangular"])
def test_gradients_solve_their_equation(kind):
    A = matrices(10, kind).requires_grad_()
    X = sqrtm_general(A)
    G = torch.randn(2, 10, 10, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    (Y,) = torch.autograd.grad(X, A, G)
    for x, y, g in zip(X.detach(), Y, G, strict=True):
        exact = torch.from_numpy(scipy_linalg.solve_sylvester(x.T.numpy(), x.T.numpy(), g.numpy()))
        K = torch.kron(torch.eye(10, dtype=DOUBLE), x) + torch.kron(x.T.contiguous(), torch.eye(10, dtype=DOUBLE))
        assert relative_error(y, exact) < 1e-15 * torch.linalg.cond(K) + 1e-13


@pytest.mark.parametrize("dtype", [DOUBLE, COMPLEX])
def test_transforms_and_compiled_graphs(dtype):
    A, D = matrices(4, dtype=dtype), matrices(4, dtype=dtype, seed=1)

    def loss(A):
        return sqrtm_general(A * (1 + 0 * A.sum())).abs().square().sum()

    leaf = A.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(vmap(grad(loss))(A), gradient)
    torch.testing.assert_close(jvp(loss, (A,), (D,))[1], (gradient.conj() * D).real.sum())
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    other = A.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(compiled(other), other)[0], gradient)


def test_large_matrices_go_one_by_one_on_a_cpu():
    A = matrices(130, batch=(1, 2))
    leaf = A.clone().requires_grad_()
    X = sqrtm_general(leaf)
    assert general_root_info(A, X).converged.all()
    G = torch.randn_like(A)
    (gradient,) = torch.autograd.grad(X, leaf, G)
    for i in (0, 1):
        own = A[0, i].clone().requires_grad_()
        alone = sqrtm_general(own)
        assert torch.equal(X[0, i], alone)
        assert torch.equal(gradient[0, i], torch.autograd.grad(alone, own, G[0, i])[0])


def test_scales_and_empty_matrices():
    A = matrices(3)
    for scale in (1e-200, 1e200):
        assert (relative_error(sqrtm_general(scale * A), scale**0.5 * sqrtm_general(A)) < 1e-14).all()
    for shape in ((0, 3, 3), (2, 0, 0)):
        E = torch.ones(shape)
        assert sqrtm_general(E).shape == shape
        assert general_root_info(E, E).residual.shape == shape[:1]


def test_errors():
    A = torch.eye(3)
    for call, text in (
        (lambda: sqrtm_general(A[:2]), r"fastsqrtm.sqrtm_general: A must be \(..., n, n\), got \(2, 3\)"),
        (lambda: sqrtm_general(A.int()), "A must be float16, .* or complex128, got int32"),
        (lambda: general_root_info(A, A.double()), r"X must have the shape and dtype of A \(3, 3\), got .* float64"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call()


def test_opcheck():
    A = matrices(3)
    fastsqrtm.testing.opcheck("sqrtm_general", (A.clone().requires_grad_(),))
    fastsqrtm.testing.opcheck("sylvester", (A.clone().requires_grad_(), A.mT.clone().requires_grad_()))
