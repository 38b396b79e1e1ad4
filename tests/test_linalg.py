"""QR, LQ, pivoted QR and least squares: factors, pivots and gradients of every shape and dtype, and at every rank.

The grids and bounds are those of the peers: torch's OpInfo of linalg.qr, TensorFlow's qr_op_test, JAX's testQr, the QR
problems of GPU MODE, and the shapes of lq-backprop.
"""

import functools
import itertools
import math
import random
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastsqrtm import linalg
from fastsqrtm._reference import qr as reference

REAL, COMPLEX = [torch.float32, torch.float64], [torch.complex64, torch.complex128]
DOUBLE = [torch.float64, torch.complex128]
MODES = ["reduced", "complete", "r"]


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def eps(x):
    return torch.finfo(x.dtype).eps


def permuted(A, P):
    return A.take_along_dim(P[..., None, :], -1)


def norm(x):
    return torch.linalg.matrix_norm(x) if x.numel() else torch.zeros(x.shape[:-2], dtype=torch.float64)


def check_factors(A, Q, R, P=None):
    """The gates of GPU MODE: 20 n eps for the factorisation, 100 n eps for orthogonality, in double precision."""
    wide = torch.promote_types(A.dtype, torch.float64)
    unit = max(A.shape[-2:], default=1) * eps(A)
    A, Q, R = (x.to(wide) for x in (A if P is None else permuted(A, P), Q, R))
    assert (norm(Q @ R - A) <= 20 * unit * norm(A)).all()
    assert (norm(Q.mH @ Q - torch.eye(Q.shape[-1])) <= 100 * unit).all()
    assert torch.equal(R, R.triu())
    diagonal = R.diagonal(dim1=-2, dim2=-1)
    assert not diagonal.is_complex() or diagonal.imag.count_nonzero() == 0
    if P is not None:
        assert torch.equal(P.sort(-1).values, torch.arange(A.shape[-1]).expand(P.shape))
        size = diagonal.abs()
        assert (size[..., 1:] <= size[..., :-1] * (1 + 1e2 * unit) + unit * norm(A)[..., None]).all()


# Matrices.


def rank_deficient(m, n, dtype):
    return randn(m, min(m, n) // 2, dtype=dtype) @ randn(min(m, n) // 2, n, dtype=dtype, seed=1)


def kahan(m, n, dtype):
    """Every column is as long as every other one at each step, but for the last factor."""
    s, c = math.sin(1.2), math.cos(1.2)
    A = torch.eye(m, n, dtype=torch.float64) - c * torch.ones(m, n).triu(1)
    A = A * s ** torch.arange(m)[:, None] * (1 - 64 * torch.finfo(dtype).eps) ** torch.arange(n)
    return A.to(dtype)


def with_singular_values(m, n, dtype, values):
    k = min(m, n)
    U, V = (torch.linalg.qr(randn(size, k, dtype=dtype, seed=size)).Q for size in (m, n))
    return (U * values(k).to(U.dtype)) @ V.mH


MATRICES = {
    "dense": lambda m, n, dtype: randn(m, n, dtype=dtype),
    "rank deficient": rank_deficient,
    "nearly rank deficient": lambda m, n, dtype: (
        rank_deficient(m, n, dtype) + 30 * torch.finfo(dtype).eps * randn(m, n)
    ),
    "clustered": lambda m, n, dtype: with_singular_values(
        m, n, dtype, lambda k: torch.where(torch.arange(k) < k // 2, 1, 1e-4)
    ),
    "banded": lambda m, n, dtype: randn(m, n, dtype=dtype).triu(-1).tril(2),
    "rows scaled": lambda m, n, dtype: randn(m, n, dtype=dtype) * torch.logspace(0, -5, m)[:, None],
    "Kahan": kahan,
    "nearly collinear": lambda m, n, dtype: randn(m, 1, dtype=dtype) + 1e-3 * randn(m, n, dtype=dtype),
    "triangular": lambda m, n, dtype: randn(m, n, dtype=dtype).triu(),
    "graded columns": lambda m, n, dtype: randn(m, n, dtype=dtype) * torch.logspace(0, -30, n),
    "large": lambda m, n, dtype: 1e30 * randn(m, n, dtype=dtype),
    "small": lambda m, n, dtype: 1e-30 * randn(m, n, dtype=dtype),
    "zero": lambda m, n, dtype: torch.zeros(m, n, dtype=dtype),
}


def check_pivots(kind, A, R, P):
    """LAPACK's pivots and R, as long as rounding does not choose them, nor the sign of an entry that was zero."""
    m, n = A.shape
    expected, pivots = scipy.linalg.qr(A.numpy(), mode="r", pivoting=True)
    if kind == "banded":
        expected, R = (x * np.sign(x.diagonal().real)[:, None] for x in (expected[: min(m, n)], R.numpy()[: min(m, n)]))
    R = np.asarray(R)
    sizes = np.abs(expected.diagonal())
    clear = int((sizes > 1e3 * m * eps(A) * sizes[0]).sum())
    assert P[:clear].tolist() == pivots[:clear].tolist()
    difference = np.abs(R[:clear] - expected[:clear])[:, :clear]
    assert clear == 0 or difference.max() <= 100 * m * eps(A) * sizes[0] * (sizes[0] / sizes[clear - 1]) ** 0.5


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
@pytest.mark.parametrize("kind", MATRICES)
def test_factors_and_pivots(kind, dtype):
    for m, n in [(20, 33), (33, 20), (24, 24)]:
        A = MATRICES[kind](m, n, dtype).to(dtype)
        for mode in ("reduced", "complete"):
            check_factors(A, *linalg.qr(A, mode=mode))
            Q, R, P = linalg.qr(A, mode=mode, pivoting=True)
            check_factors(A, Q, R, P)
        L, Q = linalg.lq(A)
        check_factors(A.mH, Q.mH, L.mH)
        check_pivots(kind, A, R, P)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kind", [kind for kind in MATRICES if kind != "Kahan"])  # of which rounding chooses the pivots
def test_long_matrices_with_pivots(kind, dtype):
    """They have a QR without pivots first."""
    for m, n in [(384, 6), (400, 110), (513, 1), (600, 7), (1100, 40)]:
        A = MATRICES[kind](m, n, dtype).to(dtype)
        Q, R, P = linalg.qr(A, pivoting=True)
        check_factors(A, Q, R, P)
        check_pivots(kind, A, R, P)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kind", [kind for kind in MATRICES if kind != "Kahan"])
def test_panels_with_pivots(kind, dtype):
    for m, n in [(70, 50), (50, 70), (64, 64)]:
        A = MATRICES[kind](m, n, dtype).to(dtype)
        Q, R, P = linalg.qr(A, pivoting=True)
        check_factors(A, Q, R, P)
        check_pivots(kind, A, R, P)


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
def test_without_pivots_these_are_the_factors_of_lapack(dtype):
    for m, n in [(5, 5), (7, 4), (4, 7), (1, 4), (4, 1), (1, 1), (33, 20)]:
        A = randn(3, m, n, dtype=dtype)
        for mode in ("reduced", "complete"):
            for ours, theirs in zip(linalg.qr(A, mode=mode), torch.linalg.qr(A, mode), strict=True):
                assert torch.allclose(ours, theirs, atol=100 * eps(A), rtol=100 * eps(A))
        assert torch.equal(linalg.qr(A, mode="r").R, linalg.qr(A).R)
        assert torch.equal(linalg.lq(A, mode="l").L, linalg.lq(A).L)


JAX_SHAPES = [
    (0, 0),
    (2, 0),
    (0, 2),
    (3, 3),
    (3, 4),
    (2, 10, 5),
    (2, 200, 100),
    (64, 16, 5),
    (33, 7, 3),
    (137, 9, 5),
    (20000, 2, 2),
]
TORCH_SHAPES = [(*batch, m, n) for batch in [(), (0,), (2,), (1, 1)] for m in (5, 2, 0) for n in (5, 2, 0)]
TENSORFLOW_SHAPES = [
    (*b, m, n) for b in [(), (3,), (3, 2)] for m in (1, 2, 5, 10, 32, 100) for n in (1, 2, 5, 10, 32, 100)
]
GPU_MODE_SHAPES = [(20, 32, 32), (8, 176, 176), (2, 60, 102)]


@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_shapes_of_the_peers(dtype, pivoting):
    for shape in [*JAX_SHAPES, *TORCH_SHAPES, *TENSORFLOW_SHAPES, *GPU_MODE_SHAPES]:
        if pivoting and max(shape[-2:]) > 64 and dtype.is_complex:
            continue  # the plain loop over so many columns takes long
        A = randn(*shape, dtype=dtype)
        m, n = shape[-2:]
        for mode, columns in (("reduced", min(m, n)), ("complete", m)):
            found = linalg.qr(A, mode=mode, pivoting=pivoting)
            assert found.Q.shape == (*shape[:-1], columns) and found.R.shape == (*shape[:-2], columns, n)
            assert found.Q.dtype == found.R.dtype == dtype
            check_factors(A, *found)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_shapes_and_views(count):
    rng = random.Random(count)
    for i in range(count):
        m, n = (rng.choice([0, 1, 1, 2, 3, 4, 5, 7, 9]) for _ in range(2))
        batch = rng.choice([(), (), (1,), (2,), (0,), (3, 1)])
        dtype = rng.choice(REAL + COMPLEX)
        A = randn(*batch, n, m, dtype=dtype, seed=i).mT if i % 2 else randn(*batch, 2 * m, n, dtype=dtype)[..., ::2, :]
        mode, pivoting = rng.choice(["reduced", "complete"]), rng.random() < 0.5
        check_factors(A, *linalg.qr(A, mode=mode, pivoting=pivoting, positive=rng.random() < 0.5))
        k = rng.randint(0, min(m, n))
        Q, R, P = linalg.qr(A, pivoting=True, k=k)
        assert norm(Q @ R[..., :k] - permuted(A, P)[..., :k]).max().item() < 1e-4 if Q.numel() else True


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_computed_in_float32(dtype):
    A = randn(2, 6, 4).to(dtype).requires_grad_()
    B = A.detach().float().requires_grad_()
    for pivoting in (False, True):
        ours, theirs = linalg.qr(A, pivoting=pivoting), linalg.qr(B, pivoting=pivoting)
        assert torch.equal(ours.Q, theirs.Q.to(dtype)) and torch.equal(ours.R, theirs.R.to(dtype))
        gradient, exact = (torch.autograd.grad(x.R.sum() + x.Q.sum(), leaf)[0] for x, leaf in ((ours, A), (theirs, B)))
        assert torch.equal(gradient, exact.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linalg.qr(A).R, linalg.qr(B).R)
        assert torch.equal(linalg.lstsq(A, A), linalg.lstsq(B, B))


def test_a_matrix_that_is_not_finite_harms_itself_alone():
    for dtype, poison in itertools.product([torch.float32, torch.complex64], [math.nan, math.inf]):
        A = randn(3, 5, 4, dtype=dtype)
        expected = linalg.qr(A, pivoting=True, rtol=1e-6), linalg.lstsq(A, A)
        A[1, 2, 3] = poison
        found = linalg.qr(A, pivoting=True, rtol=1e-6), linalg.lstsq(A, A.nan_to_num(0, 0, 0))
        assert found[0].Q[1].isnan().all() and found[0].P[1].tolist() == [0, 1, 2, 3] and found[1][1].isnan().all()
        for ours, unharmed in ((found[0].Q, expected[0].Q), (found[0].R, expected[0].R), (found[1], expected[1])):
            assert torch.allclose(ours[::2], unharmed[::2], atol=1e-5)


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
def test_a_positive_diagonal(dtype):
    A = randn(4, 6, 4, dtype=dtype)
    for mode, B in itertools.product(("reduced", "complete"), (A, A.mT)):
        for found in (linalg.qr(B, mode=mode, positive=True), linalg.qr(B, mode=mode, positive=True, pivoting=True)):
            check_factors(B, *found)
            assert (found.R.diagonal(dim1=-2, dim2=-1).real > 0).all()
        L, Q = linalg.lq(B, mode=mode, positive=True)
        check_factors(B.mH, Q.mH, L.mH)
        assert (L.diagonal(dim1=-2, dim2=-1).real > 0).all()


@pytest.mark.parametrize("A", [torch.eye(4), torch.ones(3, 5), torch.eye(3, 5).flip(1), torch.zeros(3, 4)], ids=str)
def test_of_columns_of_one_length_the_first_comes_first(A):
    assert linalg.qr(A, pivoting=True).P.tolist() == scipy.linalg.qr(A.numpy(), pivoting=True)[2].tolist()


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("name", ["qr", "qr_complete", "qr_pivoted", "qr_pivoted_complete"])
def test_the_complex_form_of_an_op(name, dtype):
    A = randn(2, 4, 3, dtype=dtype)
    of_real, of_complex = (getattr(getattr(torch.ops, space), name) for space in ("fastsqrtm", "fastsqrtm_complex"))
    torch.library.opcheck(of_complex.default, (A.clone().requires_grad_(),))
    with pytest.raises(RuntimeError, match=rf"^fastsqrtm.{name}: A must be complex64 or complex128, got float32$"):
        of_complex(torch.ones(3, 3))
    with pytest.raises(RuntimeError, match=rf"^fastsqrtm.{name}: A must be float16, .* or float64, got complex"):
        of_real(A)
    for view in (A.mT.contiguous().mT, A.conj_physical().conj(), A.mH.contiguous().mH):
        for ours, expected in zip(of_complex(view), of_complex(A), strict=True):
            assert torch.allclose(ours, expected, atol=10 * eps(A))


# Gradients.

SHAPES = [(5, 5), (7, 4), (4, 7), (2, 5, 3), (2, 3, 5), (1, 1), (1, 4), (4, 1)]
SMALL = [(3, 3), (4, 3), (2, 4)]


def check_gradients(function, *tensors, second=True):
    """Along random directions; a second order of gradients where there are few entries."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    small = tensors[0].numel() <= 12
    assert gradcheck(function, leaves, fast_mode=True, check_forward_ad=True, check_batched_grad=small)
    if second and small:
        assert gradgradcheck(function, leaves, fast_mode=True, check_fwd_over_rev=True)


def seen(Q, R, columns):
    """Q and R, and of the last columns of Q the space that they span."""
    return Q[..., :columns], Q[..., columns:] @ Q[..., columns:].mH, R


@pytest.mark.parametrize(
    ("pivoting", "positive"), [(False, False), pytest.param(False, True, marks=pytest.mark.slow), (True, True)]
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DOUBLE)
def test_derivatives_of_qr(dtype, mode, pivoting, positive):
    for shape in [*SHAPES, *SMALL]:

        def factors(A):
            Q, R = linalg.qr(A, mode=mode, pivoting=pivoting, positive=positive)[:2]
            return R if mode == "r" else seen(Q, R, min(A.shape[-2:]))

        check_gradients(factors, randn(*shape, dtype=dtype), second=positive == pivoting)


@pytest.mark.parametrize("mode", ["reduced", "complete", "l"])
@pytest.mark.parametrize("dtype", DOUBLE)
def test_derivatives_of_lq(dtype, mode):
    for shape in [*SHAPES, *SMALL, (3, 5), (5, 3)]:

        def factors(A):
            L, Q = linalg.lq(A, mode=mode)
            return L if mode == "l" else seen(Q.mH, L, min(A.shape[-2:]))

        check_gradients(factors, randn(*shape, dtype=dtype), second=mode != "l")


@pytest.mark.parametrize("dtype", DOUBLE)
@pytest.mark.parametrize("shape", [(6, 3), (5, 4), (9, 2), (2, 4, 3)])
def test_derivatives_of_the_columns_of_householder(shape, dtype):
    """Of each entry, without and with pivots; and the values are those that the op has."""
    A = randn(*shape, dtype=dtype)
    for pivoting in (False, True):
        function = functools.partial(linalg.qr, mode="complete", pivoting=pivoting)
        check_gradients(lambda A, function=function: function(A, q2="householder").Q, A)
        assert torch.equal(function(A, q2="householder").Q, function(A).Q)
    check_gradients(lambda A: linalg.lq(A.mH, mode="complete", q2="householder").Q, A, second=False)


def test_where_the_columns_of_householder_jump_those_of_the_subspace_have_a_gradient():
    A = torch.eye(4, 2, dtype=torch.float64) + 0.1 * torch.ones(4, 2, dtype=torch.float64).triu(1)

    def gradient(q2):
        leaf = A.clone().requires_grad_()
        Q2 = linalg.qr(leaf, mode="complete", q2=q2).Q[:, 2:]
        weights = randn(4, 4)
        return torch.autograd.grad((weights * (Q2 @ Q2.mT)).sum(), leaf)[0]

    def loss(A):
        weights = randn(4, 4)
        return (weights * (torch.eye(4) - A @ torch.linalg.inv(A.mT @ A) @ A.mT)).sum()

    assert torch.allclose(gradient("subspace"), torch.func.grad(loss)(A), atol=1e-12)
    assert gradient("householder").isnan().any()
    assert linalg.qr(A, mode="complete", q2="householder").Q.isfinite().all()


@pytest.mark.parametrize("dtype", DOUBLE)
def test_gradients_of_torch(dtype):
    """Of TensorFlow's grid, with batches."""
    for shape in [(*batch, m, n) for batch in [(), (2, 3)] for m in (1, 2, 5, 10) for n in (1, 2, 5, 10)]:
        A = randn(*shape, dtype=dtype).requires_grad_()
        gradients = []
        for factorise in (linalg.qr, torch.linalg.qr):
            Q, R = factorise(A)
            gQ, gR = randn(*Q.shape, dtype=dtype, seed=1), randn(*R.shape, dtype=dtype, seed=2)
            gradients.append(torch.autograd.grad((Q, R), A, (gQ, gR))[0])
        assert torch.allclose(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", REAL)
def test_gradients_of_long_matrices(dtype):
    """They are torch's own products on CPU: those of the plain rule, and NaN for a matrix where an input has one."""
    A = randn(2, 1200, 7, dtype=torch.float64)
    Q, R = torch.linalg.qr(A)
    inputs = [x.to(dtype) for x in (Q, R, randn(*Q.shape, seed=1), randn(*R.shape, seed=2))]
    expected = reference.qr_backward(*inputs)
    found = torch.ops.fastsqrtm.qr_backward(*inputs)
    assert torch.allclose(found, expected, rtol=0, atol=1e3 * eps(A.to(dtype)) * expected.abs().max().item())
    for k, bad in itertools.product(range(4), (math.nan, math.inf)):
        poisoned = [x.clone() for x in inputs]
        poisoned[k][1, 3, 5] = bad
        harmed = torch.ops.fastsqrtm.qr_backward(*poisoned)
        assert harmed[1].isnan().all() and torch.equal(harmed[0], found[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_gradients_in_single_precision(dtype):
    for shape in [(5, 5), (7, 4), (4, 7)]:
        A = randn(*shape, dtype=dtype)
        gradients = []
        for leaf in (A.clone().requires_grad_(), A.to(torch.promote_types(dtype, torch.float64)).requires_grad_()):
            Q, R, _ = linalg.qr(leaf, pivoting=True)
            gradients.append(
                torch.autograd.grad((Q.abs().square() * torch.arange(Q.shape[-1])).sum() + R.abs().sum(), leaf)[0]
            )
        assert torch.allclose(*(g.to(torch.complex128) for g in gradients), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["dependent", "zero column"])
@pytest.mark.parametrize("dtype", DOUBLE)
def test_wide_matrices_whose_first_columns_are_dependent(dtype, kind):
    """Of torch.linalg.qr the gradient is NaN here, or as large as rounding makes it; of pivoted QR it is as ever."""
    A = randn(3, 5, dtype=dtype)
    A[:, 1] = 2 * A[:, 0] if kind == "dependent" else 0
    A.requires_grad_()

    def gradient(factors):
        return torch.autograd.grad(factors[1].abs().square().sum() + factors[0].real.sum(), A)[0]

    assert not gradient(torch.linalg.qr(A)).abs().max() < 1e12
    assert gradient(linalg.qr(A, pivoting=True)).abs().max() < 1e3
    check_gradients(lambda A: linalg.qr(A, pivoting=True)[:2], A.detach())
    R = linalg.qr(A, pivoting=True, mode="r").R
    assert torch.allclose(torch.autograd.grad(R.abs().square().sum(), A)[0], 2 * A, atol=1e-12)


def copyltu(M):
    """With the lower triangle of M: copied into the upper one, the imaginary part of the diagonal left out."""
    return M.tril(-1) + M.tril(-1).mH + torch.diag(M.diagonal().real.to(M.dtype))


@pytest.mark.parametrize("shape", [(5, 5), (6, 4), (4, 6)])
@pytest.mark.parametrize("dtype", DOUBLE)
def test_the_formulas_of_the_guide(dtype, shape):
    A, dA, k = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype, seed=1), min(shape)
    (Q, R), (dQ, dR) = torch.func.jvp(lambda A: tuple(linalg.qr(A)), (A,), (dA,))
    A2, R1, R2 = A[:, k:], R[:, :k], R[:, k:]
    X = dA[:, :k] @ torch.linalg.inv(R1)
    Y = Q.mH @ X
    T = Y.triu(1) + Y.tril(-1).mH + torch.diag(Y.diagonal().real.to(dtype))
    assert torch.allclose(dQ, X - Q @ T)
    assert torch.allclose(dR, torch.cat((T @ R1, dQ.mH @ A2 + Q.mH @ dA[:, k:]), -1))
    assert torch.allclose(dQ @ R + Q @ dR, dA)
    gQ, gR = randn(*Q.shape, dtype=dtype, seed=2), randn(*R.shape, dtype=dtype, seed=3)
    gR1, gR2 = gR[:, :k], gR[:, k:]
    W = R1 @ gR1.mH - gR2 @ R2.mH - gQ.mH @ Q
    gA = torch.cat(((gQ + Q @ (R2 @ gR2.mH + copyltu(W))) @ torch.linalg.inv(R1).mH, Q @ gR2), -1)
    assert torch.allclose(gA, torch.func.vjp(lambda A: tuple(linalg.qr(A)), A)[1]((gQ, gR))[0])
    upper = (
        gR.triu() - torch.nn.functional.pad(torch.diag(1j * gR.diagonal().imag), (0, shape[1] - k))
        if dtype.is_complex
        else gR.triu()
    )
    assert torch.allclose(gA, torch.func.vjp(lambda A: tuple(linalg.qr(A)), A)[1]((gQ, upper))[0])


@pytest.mark.parametrize("dtype", DOUBLE)
def test_the_last_columns_of_the_guide(dtype):
    """Of LAPACK, by the first ones; and the forward formula of the subspace."""
    A, dA = randn(7, 4, dtype=dtype), randn(7, 4, dtype=dtype, seed=1)
    Q = torch.linalg.qr(A, "complete").Q
    (E1, E2), (Q1, Q2) = torch.eye(7, dtype=dtype).split((4, 3), -1), Q.split((4, 3), -1)
    Z = -Q1[4:] @ torch.linalg.inv(E1[:4] - Q1[:4])
    assert torch.allclose(Q2, E2 - (E1 - Q1) @ Z.mH)
    tangent = torch.func.jvp(lambda A: linalg.qr(A, mode="complete").Q, (A,), (dA,))[1]
    assert torch.allclose(tangent[:, 4:], -Q1 @ tangent[:, :4].mH @ Q2)


# Ranks.


@pytest.mark.parametrize("dtype", DOUBLE)
@pytest.mark.parametrize(("shape", "k"), [((6, 5), 3), ((4, 7), 2), ((2, 5, 5), 4), ((3, 4), 3), ((4, 3), 0)])
def test_a_number_of_columns(shape, k, dtype):
    A = randn(*shape, dtype=dtype)
    for pivoting in (False, True):
        whole, found = linalg.qr(A, pivoting=pivoting), linalg.qr(A, pivoting=pivoting, k=k)
        assert torch.allclose(found.Q, whole.Q[..., :k], atol=1e-12)
        assert torch.allclose(found.R, whole.R[..., :k, :], atol=1e-12)
        assert torch.equal(found.R, found.R.triu())
        if k:
            check_gradients(lambda A, pivoting=pivoting: linalg.qr(A, pivoting=pivoting, k=k)[:2], A)


def of_ranks(ranks, m, n, dtype=torch.float64):
    left, right = randn(len(ranks), m, m, dtype=dtype), randn(len(ranks), m, n, dtype=dtype, seed=1)
    kept = torch.arange(m) < torch.tensor(ranks)[:, None]
    return (left * kept[:, None, :]) @ right


@pytest.mark.parametrize("dtype", DOUBLE)
@pytest.mark.parametrize(("m", "n", "ranks"), [(6, 5, (5, 3, 2)), (4, 7, (4, 2, 1)), (5, 5, (5, 0)), (3, 3, (2,))])
def test_a_rank_for_each_matrix(m, n, ranks, dtype):
    A = of_ranks(ranks, m, n, dtype)
    found = linalg.qr(A, pivoting=True, rtol=1e-10)
    assert found.rank.tolist() == list(ranks)
    assert norm(found.Q @ found.R - permuted(A, found.P)).max() < 1e-12
    for q, rank in zip(found.Q, ranks, strict=True):
        assert norm(q.mH @ q - torch.diag((torch.arange(q.shape[-1]) < rank).to(dtype))) < 1e-13
    assert torch.equal(found.R, found.R.triu())
    leaf = A.clone().requires_grad_()
    R = linalg.qr(leaf, pivoting=True, rtol=1e-10, mode="r").R
    assert torch.allclose(torch.autograd.grad(R.abs().square().sum(), leaf)[0], 2 * A, atol=1e-12)


@pytest.mark.parametrize("dtype", DOUBLE)
def test_derivatives_at_a_tolerance_between_the_diagonal_entries(dtype):
    """Ranks 3, 2 and 1 of matrices of full rank, which no small change alters; and the formula of the guide."""
    A = torch.stack([with_singular_values(4, 5, dtype, lambda k, s=s: torch.tensor(s)) for s in (
        [1.0, 0.8, 0.6, 1e-3], [1.0, 0.8, 1e-3, 5e-4], [1.0, 1e-3, 1e-3, 1e-3]
    )])  # fmt: skip
    assert linalg.qr(A, pivoting=True, rtol=0.05).rank.tolist() == [3, 2, 1]
    check_gradients(lambda A: linalg.qr(A, pivoting=True, rtol=0.05)[:2], A)
    leaf = A.clone().requires_grad_()
    Q, R, P = linalg.qr(leaf, pivoting=True, rtol=0.05)
    gQ, gR = randn(*Q.shape, dtype=dtype, seed=3), randn(*R.shape, dtype=dtype, seed=4)
    found = permuted(torch.autograd.grad((Q, R), leaf, (gQ, gR))[0], P)
    B, Q, R = permuted(A, P), Q.detach(), R.detach()
    for b, q, r, gq, gr, gradient, rank in zip(B, Q, R, gQ, gR, found, (3, 2, 1), strict=True):
        q, r1, gq, gr = q[:, :rank], r[:rank, :rank], gq[:, :rank], gr[:rank]
        g = gq + b[:, rank:] @ gr[:, rank:].mH
        W = r1 @ gr[:, :rank].mH - g.mH @ q
        expected = torch.cat(((g + q @ copyltu(W)) @ torch.linalg.inv(r1).mH, q @ gr[:, rank:]), -1)
        assert torch.allclose(gradient, expected, atol=1e-11)


@pytest.mark.parametrize("dtype", DOUBLE)
def test_the_zero_matrix(dtype):
    A = torch.zeros(2, 3, 4, dtype=dtype, requires_grad=True)
    Q, R, P = found = linalg.qr(A, pivoting=True, rtol=1e-6)
    assert found.rank.tolist() == [0, 0] and not Q.any() and not R.any() and P.tolist() == [[0, 1, 2, 3]] * 2
    gradient = torch.autograd.grad(R.abs().sum() + Q.abs().sum(), A)[0]
    assert torch.equal(gradient, torch.zeros_like(A))
    X = linalg.lstsq(A, torch.ones(2, 3, 1, dtype=dtype))
    assert not X.any() and not torch.autograd.grad(X.abs().sum(), A)[0].any()


# Least squares.


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
@pytest.mark.parametrize(("m", "n"), [(6, 3), (3, 6), (4, 4), (1, 5), (5, 1), (0, 3), (3, 0), (30, 20), (20, 30)])
def test_least_squares(m, n, dtype):
    A, B = randn(2, m, n, dtype=dtype), randn(2, m, 2, dtype=dtype, seed=1)
    X = linalg.lstsq(A, B)
    wide = torch.promote_types(dtype, torch.float64)
    expected = torch.linalg.pinv(A.to(wide)) @ B.to(wide)
    assert X.shape == expected.shape and X.dtype == dtype
    assert torch.allclose(X.to(wide), expected, rtol=0, atol=1e4 * eps(A))
    assert torch.allclose(linalg.lstsq(A[0], B), linalg.lstsq(A[:1].expand(2, m, n), B), atol=1e4 * eps(A))


@pytest.mark.parametrize("dtype", DOUBLE)
@pytest.mark.parametrize(("m", "n", "ranks"), [(6, 4, (2, 4, 0)), (4, 6, (3, 4, 1)), (5, 5, (5, 3))])
def test_least_squares_at_any_rank(m, n, ranks, dtype):
    """The gradient as well, along changes that keep the rank, against that of the pseudo-inverse by its formula."""
    A, B = of_ranks(ranks, m, n, dtype), randn(len(ranks), m, 2, dtype=dtype, seed=2)
    pseudo = torch.linalg.pinv(A, rtol=1e-10)
    leaf = A.clone().requires_grad_()
    X = linalg.lstsq(leaf, B, rtol=1e-10)
    assert torch.allclose(X, pseudo @ B, atol=1e-11)
    left, right = randn(len(ranks), m, m, dtype=dtype, seed=3), randn(len(ranks), n, n, dtype=dtype, seed=4)
    dA = left @ A + A @ right
    dX = pseudo @ (-dA @ X) + pseudo @ pseudo.mH @ dA.mH @ (B - A @ X)
    dX = dX + (torch.eye(n) - pseudo @ A) @ dA.mH @ pseudo.mH @ X
    G = randn(*X.shape, dtype=dtype, seed=5)
    gradient = torch.autograd.grad(X, leaf, G)[0]
    inner = lambda x, y: (x.conj() * y).real.sum((-2, -1))  # noqa: E731
    assert torch.allclose(inner(gradient, dA), inner(G, dX), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", DOUBLE)
@pytest.mark.parametrize(("m", "n"), [(5, 3), (3, 5), (4, 4), (1, 3), (3, 1)])
def test_derivatives_of_least_squares(m, n, dtype):
    check_gradients(linalg.lstsq, randn(2, m, n, dtype=dtype), randn(2, m, 2, dtype=dtype, seed=1))


# As a function of torch.

FUNCTIONS = {
    "qr": lambda A: linalg.qr(A),
    "complete": lambda A: linalg.qr(A, mode="complete", positive=True),
    "pivoted": lambda A: linalg.qr(A, pivoting=True)[:2],
    "rank": lambda A: linalg.qr(A, pivoting=True, rtol=1e-3)[:2],
    "lq": lambda A: linalg.lq(A),
    "lstsq": lambda A: (linalg.lstsq(A, A.mean(-1, keepdim=True)),),
}


def loss_of(function):
    return lambda A: sum((x.abs() * torch.arange(x.shape[-1])).square().sum() for x in function(A))


@pytest.mark.parametrize("dtype", DOUBLE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms(name, dtype):
    function, A = FUNCTIONS[name], randn(3, 5, 4, dtype=dtype)
    for mapped, plain in zip(torch.vmap(function, in_dims=1)(A.movedim(0, 1)), function(A), strict=True):
        assert torch.allclose(mapped, plain, atol=1e-12)
    leaf = A.clone().requires_grad_()
    expected = torch.autograd.grad(loss_of(function)(leaf), leaf)[0]
    assert torch.allclose(torch.vmap(torch.func.grad(loss_of(function)))(A), expected, atol=1e-10)
    tangent = torch.func.jvp(loss_of(function), (A,), (A,))[1]
    assert torch.allclose(tangent, (expected.conj() * A).real.sum(), rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, DOUBLE[name in ("pivoted", "complete", "lq")]) for name in FUNCTIONS], ids=str
)
def test_compile_and_export(name, dtype):
    torch._dynamo.reset()
    function, A = FUNCTIONS[name], randn(2, 5, 4, dtype=dtype).requires_grad_()
    compiled = torch.compile(loss_of(function), fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(f(A), A)[0] for f in (loss_of(function), compiled)]
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-12)

    class Module(torch.nn.Module):
        def forward(self, A):
            return tuple(function(A))

    A = A.detach()
    exported = torch.export.export(Module(), (A,)).module()
    for ours, theirs in zip(exported(A), function(A), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64])
@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 4, 6)])
def test_nothing_leaves_the_device_or_waits_for_it(shape, dtype):
    """Meta tensors have no values that could be read, and meet no tensor of another device."""
    A = torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)
    found = [linalg.lstsq(A, A), *linalg.lq(A), *linalg.qr(A, k=2), *linalg.qr(A, mode="complete", q2="householder")]
    for pivoting, mode in itertools.product((False, True), MODES):
        found += linalg.qr(A, mode=mode, pivoting=pivoting, positive=True)[:2]
    found += linalg.qr(A, pivoting=True, rtol=1e-3)[:2]
    assert linalg.qr(A, pivoting=True, rtol=1e-3).rank.shape == (2,)
    assert torch.autograd.grad(sum(x.abs().sum() for x in found), A)[0].shape == shape
    wide = A.detach().to(torch.promote_types(dtype, torch.float32))
    assert reference.factorise(wide, complete=True, pivoted=True)[2].shape == (2, shape[-1])


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_orthogonal_parametrisation(shape):
    layer = linalg.orthogonal(torch.nn.Linear(shape[1], shape[0], dtype=torch.float64))
    target = torch.linalg.qr(randn(*shape) if shape[0] >= shape[1] else randn(*shape).mT).Q
    target = target if shape[0] >= shape[1] else target.mT
    optimizer = torch.optim.SGD(layer.parameters(), 0.3)
    with torch.no_grad():  # the orthogonal group has two parts, between which nothing moves
        layer.weight = target + 0.1 * randn(*shape, seed=1)
    first = norm(layer.weight - target).item()
    for _ in range(60):
        optimizer.zero_grad()
        (layer.weight - target).square().sum().backward()
        optimizer.step()
        W = layer.weight if shape[0] >= shape[1] else layer.weight.mT
        assert norm(W.mT @ W - torch.eye(min(shape))) < 1e-12
    assert norm(layer.weight - target).item() < 1e-3 * first
    layer.weight = target
    assert torch.allclose(layer.weight, target, atol=1e-14)


def test_the_example_learns_more_than_principal_components(capsys):
    pytest.importorskip("sklearn")
    path = Path(__file__).resolve().parent.parent / "examples" / "fit_projection.py"
    found = list(runpy.run_path(str(path))["main"](["--steps", "20"]).values())
    assert 0.6 < found[0] < found[1] < found[2] - 0.03
    assert "8 trained directions" in capsys.readouterr().out


A = torch.ones(4, 3)
BAD_CALLS = {
    "qr: A must be a tensor, got list": lambda: linalg.qr([[1.0]]),
    "qr: A must be (..., m, n), got (3,)": lambda: linalg.qr(torch.ones(3)),
    "qr: A must be float16, bfloat16, float32, float64, complex64 or complex128, got int64": lambda: linalg.qr(
        A.long()
    ),
    "qr: A must be a strided tensor, got sparse_coo": lambda: linalg.qr(A.to_sparse()),
    "qr: mode must be one of reduced, complete, r, got 'full'": lambda: linalg.qr(A, mode="full"),
    "qr: q2 must be one of subspace, householder, got None": lambda: linalg.qr(A, q2=None),
    "qr: k must be from 0 to 3, got 4": lambda: linalg.qr(A, k=4),
    "qr: k must be a whole number, got 1.5": lambda: linalg.qr(A, k=1.5),
    "qr: k and rtol need mode reduced or r, got complete": lambda: linalg.qr(A, k=1, mode="complete"),
    "qr: rtol needs pivoting=True, got pivoting=False": lambda: linalg.qr(A, rtol=0.1),
    "qr: rtol must be at least 0 and less than 1, got 1": lambda: linalg.qr(A, pivoting=True, rtol=1.0),
    "lq: mode must be one of reduced, complete, l, got 'r'": lambda: linalg.lq(A, mode="r"),
    "lq: A must be (..., m, n), got ()": lambda: linalg.lq(torch.ones(())),
    "lstsq: B must be (..., m, r) where A is (4, 3), got (3, 1)": lambda: linalg.lstsq(A, A.mT[:, :1]),
    "lstsq: B must have the dtype of A (float32), got float64": lambda: linalg.lstsq(A, A.double()),
    "lstsq: B must be on the device of A (cpu), got meta": lambda: linalg.lstsq(A, A.to("meta")),
    "lstsq: B must broadcast with A (2, 4, 3), got (3, 4, 3)": lambda: linalg.lstsq(
        A.expand(2, 4, 3), A.expand(3, 4, 3)
    ),
    "lstsq: rtol must be at least 0 and less than 1, got nan": lambda: linalg.lstsq(A, A, rtol=math.nan),
    "orthogonal: A must be (..., m, n), got (4,)": lambda: linalg.orthogonal(torch.nn.Linear(3, 4), "bias"),
}


@pytest.mark.parametrize("text", BAD_CALLS)
def test_what_is_wrong_is_said(text):
    with pytest.raises(RuntimeError, match=f"^fastsqrtm.linalg.{re.escape(text)}$"):
        BAD_CALLS[text]()


@pytest.mark.slow
def test_ten_thousand_calls_with_anything():
    """What cannot be computed is refused by name; nothing else is raised."""
    choose, generator = random.Random(0).choice, torch.Generator().manual_seed(0)
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.bool)

    def anything():
        shape = [choose((0, 1, 2, 3, 5)) for _ in range(choose((0, 1, 2, 2, 2, 3, 3, 4)))]
        A = torch.randn(shape, generator=generator).to(choose(dtypes))
        return choose((A,) * 12 + (None, 3, "x", [[1.0]], A.to_sparse()))

    def call():
        function = choose((linalg.qr, linalg.lq, linalg.lstsq))
        if function is linalg.lstsq:
            return function(anything(), anything(), rtol=choose((None, 1e-3, 2, -1, "a")))
        options = {"mode": choose(("reduced", "complete", "r", "l", "R", None, 1)), "positive": choose((True, False))}
        if function is linalg.qr:
            options |= {"pivoting": choose((True, False)), "k": choose((None, None, 0, 1, 2, 9, -1, 1.5, "a", True))}
            options |= {"rtol": choose((None, None, 0, 1e-3, 1, -1, "a", math.nan))}
        return function(anything(), **options, q2=choose(("subspace", "householder", "x")))

    refused = 0
    for _ in range(10_000):
        try:
            call()
        except RuntimeError as error:
            assert str(error).startswith("fastsqrtm.linalg."), error
            refused += 1
    assert 5_000 < refused < 10_000
