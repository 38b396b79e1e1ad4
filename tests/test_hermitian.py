"""Complex Hermitian matrices in the everyday functions: accuracy, derivatives, and what torch does to functions."""

import functools
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fastsqrtm
from fastsqrtm import metrics
from fastsqrtm._ops.hermitian import embedded
from fastsqrtm.testing import exact_sqrtm, extended_eigh, relative_error, results, spd

DOUBLE = torch.complex128
FUNCTIONS = {
    "sqrtm": fastsqrtm.sqrtm,
    "sqrtm with eps": functools.partial(fastsqrtm.sqrtm, eps=0.1, rel_eps=0.2),
    "inv_sqrtm": fastsqrtm.inv_sqrtm,
    "inv_sqrtm, null": functools.partial(fastsqrtm.inv_sqrtm, null="zero"),
    "sqrtm_and_inv": fastsqrtm.sqrtm_and_inv,
    "inv": fastsqrtm.inv,
    "inv_and_logdet": fastsqrtm.inv_and_logdet,
    "lyapunov": lambda A: fastsqrtm.lyapunov(A, A.mH @ A + 1j * A, rtol=0),
    "bures_distance": lambda A: metrics.bures_distance(A, torch.ones(3, dtype=DOUBLE).diag_embed()),
}


@pytest.fixture(params=FUNCTIONS)
def name(request):
    return request.param


def loss(function, A):
    parts = [part for x in results(function(A)) for part in ((x.real, x.imag**3) if x.is_complex() else (x,))]
    return sum(part.sin().sum() for part in parts)


def by_eigh(A, power):
    """As one does it with torch, with the floor of the inverse root."""
    w, V = torch.linalg.eigh(A)
    return (V * w.clamp_min(torch.finfo(w.dtype).eps * w[..., -1:])[..., None, :] ** power) @ V.mH


@pytest.mark.parametrize("n, kappa", [(1, 1.0), (3, 1e2), (16, 1e4), (33, 1e2), (33, 1e6)])
@pytest.mark.parametrize("function, power", [("sqrtm", 0.5), ("inv_sqrtm", -0.5), ("inv", -1.0)])
def test_errors_are_those_of_eigh(function, power, n, kappa):
    A = spd(n, kappa, (4,), dtype=torch.complex64)
    exact = exact_sqrtm(A, power)
    found = getattr(fastsqrtm, function)(A)
    assert found.dtype == A.dtype
    assert torch.equal(found, found.mH)
    error, eigh = (relative_error(x, exact).max() for x in (found, by_eigh(A, power)))
    assert error <= 2 * eigh + 2 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("kappa", [1.0, 1e6, 1e12])
def test_products_in_double_precision(kappa):
    A = spd(24, kappa, (2,), dtype=DOUBLE)
    identity = torch.eye(24, dtype=DOUBLE).expand_as(A)
    S, Z = fastsqrtm.sqrtm_and_inv(A, check=True)
    assert (relative_error(S @ S, A) <= 1e-15 * kappa**0.5 + 1e-14).all()
    assert (relative_error(Z @ A @ Z, identity) <= 1e-15 * kappa + 1e-13).all()
    inverse, logdet = fastsqrtm.inv_and_logdet(A)
    assert torch.equal(inverse, fastsqrtm.inv(A))
    assert (relative_error(inverse @ A, identity) <= 2e-15 * kappa + 1e-13).all()
    # As a real matrix of twice the order it has each eigenvalue twice.
    expected = torch.tensor([np.log(extended_eigh(a)[0]).sum() / 2 for a in embedded(A).numpy()], dtype=torch.float64)
    assert logdet.dtype == torch.float64
    assert torch.allclose(logdet, expected, rtol=1e-13, atol=1e-15 * kappa)
    info = fastsqrtm.root_info(A, S, Z)
    assert info.converged.all()
    assert not fastsqrtm.root_info(A, 1.01 * S).converged.any()
    assert torch.allclose(fastsqrtm.root_info(A + 0.1j * S, S).asymmetry, 0.2 * S.norm(dim=(1, 2)) / (
        A + 0.1j * S).norm(dim=(1, 2)), rtol=1e-6)  # fmt: skip


def test_only_the_hermitian_part_acts(name):
    A, K = spd(3, 9.0, dtype=DOUBLE), torch.randn(3, 3, dtype=DOUBLE)
    if name != "lyapunov":  # whose right side has any matrix
        for one, other in zip(
            *(results(FUNCTIONS[name](X)) for X in (A, A + K - K.mH)), strict=True
        ):  # fmt: skip
            if "eps" not in name:  # in units of the norm, which sees all of it
                torch.testing.assert_close(one, other)


def test_a_complex_matrix_with_real_entries_is_a_real_one(name):
    A = spd(3, 9.0, (2,), dtype=torch.float64)
    if name != "lyapunov":
        for real, found in zip(*(results(FUNCTIONS[name](x)) for x in (A, A.to(DOUBLE))), strict=True):
            torch.testing.assert_close(found, real.to(found.dtype), rtol=1e-13, atol=1e-14)


def test_derivatives_to_second_order_and_forward_mode(name):
    A = spd(3, 9.0, (2,), dtype=DOUBLE).requires_grad_()
    assert gradcheck(FUNCTIONS[name], A, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(FUNCTIONS[name], A)


def test_transforms(name):
    function, A = FUNCTIONS[name], spd(3, 9.0, (4,), dtype=DOUBLE)
    one_by_one = [torch.stack(x) for x in zip(*(results(function(a)) for a in A), strict=True)]
    for mapped, expected in zip(results(torch.vmap(function)(A)), one_by_one, strict=True):
        torch.testing.assert_close(mapped, expected)
    leaf = A.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(function, leaf), leaf)
    torch.testing.assert_close(torch.vmap(torch.func.grad(functools.partial(loss, function)))(A), gradient)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_gradients_are_those_of_eager(name, backend):
    """Of torch's functions of complex matrices some have another gradient when compiled: pytorch issue 197084."""
    if name == "bures_distance":
        pytest.skip("it chooses by its values")
    if backend == "inductor" and name not in ("sqrtm with eps", "inv_and_logdet"):
        pytest.skip("the graphs are alike")
    torch._dynamo.reset()
    function = functools.partial(loss, FUNCTIONS[name])
    compiled = torch.compile(lambda A: function(A * (1 + 0j)), fullgraph=True, backend=backend)
    gradients = []
    for run in (function, compiled):
        leaf = spd(3, 9.0, (2,), dtype=DOUBLE).requires_grad_()
        gradients.append(torch.autograd.grad(run(leaf), leaf)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_singular_indefinite_and_bad_matrices():
    deficient = spd(6, 1e3, (2,), "rank_deficient", dtype=DOUBLE)
    S = fastsqrtm.sqrtm(deficient)
    assert (relative_error(S @ S, deficient) < 1e-13).all()
    Z = fastsqrtm.inv_sqrtm(deficient, null="zero", null_rtol=1e-10)
    projector = Z @ deficient @ Z
    assert torch.allclose(projector @ projector, projector, atol=1e-10)
    assert torch.allclose(projector.diagonal(dim1=-2, dim2=-1).sum(-1).real, torch.tensor(3.0, dtype=torch.float64))
    A = torch.stack((torch.zeros(3, 3, dtype=DOUBLE), spd(3, dtype=DOUBLE), torch.full((3, 3), torch.nan * 1j), -spd(
        3, dtype=DOUBLE)))  # fmt: skip
    roots = fastsqrtm.sqrtm(A)
    assert roots[0].count_nonzero() == 0
    assert roots[1].isfinite().all()
    assert roots[2:].isnan().all()
    inverse, logdet = fastsqrtm.inv_and_logdet(A)
    assert torch.equal(inverse[0].real.diagonal(), torch.full((3,), torch.inf, dtype=torch.float64))
    assert logdet[0] == -torch.inf
    assert logdet[2:].isnan().all()
    for shape in ((0, 0), (0, 3, 3), (2, 0, 0)):
        assert fastsqrtm.sqrtm(torch.ones(shape, dtype=DOUBLE)).shape == shape


def test_lyapunov_of_any_right_side():
    B, C = spd(5, 30.0, (2,), dtype=DOUBLE), torch.randn(5, 5, dtype=DOUBLE)
    for how in ({"rtol": 0}, {"iterations": 40}):
        X = fastsqrtm.lyapunov(B, C, **how)
        assert torch.allclose(B @ X + X @ B, C.expand_as(B))
    B, C = B.requires_grad_(), C.requires_grad_()
    assert gradcheck(lambda B, C: fastsqrtm.lyapunov(B, C, rtol=0), (B, C), check_forward_ad=True)


def test_bures_distance_is_that_of_the_formula():
    A, B = (spd(7, 50.0, (3,), dtype=DOUBLE, seed=seed) for seed in (0, 1))
    S = exact_sqrtm(A)
    overlap = torch.linalg.eigvalsh(S @ B @ S).sqrt().sum(-1)
    trace = (A + B).diagonal(dim1=-2, dim2=-1).sum(-1).real
    torch.testing.assert_close(metrics.bures_distance(A, B), (trace - 2 * overlap).sqrt())
    real = torch.eye(7, dtype=torch.float64)
    torch.testing.assert_close(metrics.bures_distance(A, real), metrics.bures_distance(A, real.to(DOUBLE)))
    assert metrics.bures_distance(A.to(torch.complex64), B.to(torch.complex64)).dtype == torch.float32


def test_errors_speak_of_the_matrix_that_was_given():
    A = spd(3, dtype=DOUBLE)
    for call, text in (
        (lambda: fastsqrtm.sqrtm(A[:2]), r"fastsqrtm.sqrtm: A must be \(..., n, n\), got \(2, 3\)"),
        (lambda: fastsqrtm.inv(A.to(torch.complex32)), "must be float16, .*, complex64 or complex128, got complex32"),
        (lambda: fastsqrtm.lyapunov(A, A.real), r"C must have the dtype of B \(complex128\), got float64"),
        (lambda: fastsqrtm.lyapunov(A, A[:2, :2]), r"C must have the shape of B \(3, 3\), got \(2, 2\)"),
        (lambda: fastsqrtm.root_info(A, A.real), "S must be complex where A is"),
        (
            lambda: fastsqrtm.paper.sqrtm(A, method="mpa"),
            "fastsqrtm.paper.sqrtm: A must be float16, .* float64, got complex128",
        ),
        (lambda: fastsqrtm.sqrtm(A + 1j, check=True), "every matrix must be symmetric to"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call()


def test_the_example(capsys):
    example = runpy.run_path(str(Path(__file__).resolve().parent.parent / "examples" / "density_matrices.py"))
    assert max(example["pure_states"](0.7)) < 1e-14
    assert max(example["commuting_states"](5)) < 1e-13
    rho = example["random_state"](3, 3, 0)
    best = torch.linalg.eigvalsh(rho)[1:].sum().item()
    assert abs(example["nearest_of_rank"](rho, 2, 100) - best) < 1e-3
