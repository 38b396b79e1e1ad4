"""Every system of the paper by its name: Newton-Schulz, the forward methods for comparison, the valid combinations."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch

import fastsqrtm
from fastsqrtm import paper
from fastsqrtm._ops.native import native
from fastsqrtm.paper import METHODS, divided_differences
from fastsqrtm.testing import exact_gradient, exact_sqrtm, relative_error, spd

FUNCTIONS = {0.5: paper.sqrtm, -0.5: paper.inv_sqrtm}
PAIRS = [(method, backward) for method, row in METHODS.items() for backward in row]
COMBINED = [(m, b) for m, b in PAIRS if METHODS[m][b].combined]
SPECTRAL = ["svd_pi", "svd_taylor", "svd_pade"]


def gradient(function, A, G, **arguments):
    leaf = A.detach().clone().requires_grad_()
    return torch.autograd.grad(function(leaf, **arguments), leaf, G)[0]


def cotangent(A, seed=1):
    return torch.randn(A.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(A.dtype)


def lyapunov_gradient(S, G, power):
    """The exact Lyapunov solution at a computed root S, or inverse root, by its eigendecomposition."""
    values, V = torch.linalg.eigh(S)
    sums = values[..., :, None] + values[..., None, :]
    if power < 0:
        square = (values**2)[..., :, None] * (values**2)[..., None, :]
        sums = -sums / square
    return V @ ((V.mT @ ((G + G.mT) / 2) @ V) / sums) @ V.mT


# Newton-Schulz: a separate op, with the gradient of its own map.


@pytest.mark.parametrize("n", [1, 2, 3, 8, 15, 16, 17, 33, 64, 70])
@pytest.mark.parametrize("name", ["ns", "ns_inv"])
def test_newton_schulz_is_the_coupled_iteration(path, name, n):
    A = spd(n, 100, (2, 2), dtype=torch.float64, seed=n)
    G = cotangent(A)
    for steps in (1, 2, 3, 4, 5, 8):
        leaf = A.clone().requires_grad_()
        nu = torch.linalg.matrix_norm(leaf)[..., None, None]
        Y, Z = leaf / nu, torch.eye(n, dtype=torch.float64).expand_as(A)
        for _ in range(steps):
            T = (3 * torch.eye(n, dtype=torch.float64) - Z @ Y) / 2
            Y, Z = Y @ T, T @ Z
        expected = Y * nu.sqrt() if name == "ns" else Z / nu.sqrt()
        (expected_gradient,) = torch.autograd.grad(expected, leaf, (G + G.mT) / 2)
        root, own = path(name)(A, steps), path(f"{name}_backward")(A, G, steps)
        assert torch.equal(root, root.mT) and torch.equal(own, own.mT)
        assert relative_error(root, expected).max() < 1e-12, steps
        assert relative_error(own, expected_gradient).max() < 1e-11, steps
        single = path(name)(A.float(), steps), path(f"{name}_backward")(A.float(), G.float(), steps)
        assert relative_error(single[0], expected).max() < 1e-5, steps
        assert relative_error(single[1], expected_gradient).max() < 1e-3, steps


@pytest.mark.parametrize("kappa", [1e0, 1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("power", FUNCTIONS)
def test_newton_schulz_converges_and_stays(path, power, kappa):
    """Rounding is not amplified, however many steps are taken: the error is that of the conditioning."""
    name = "ns" if power > 0 else "ns_inv"
    for dtype, largest in ((torch.float32, 1e6), (torch.float64, 1e8)):
        if kappa > largest:
            continue
        A = spd(24, kappa, (3,), dtype=dtype)
        eps, condition = torch.finfo(dtype).eps, kappa if power < 0 else kappa**0.5
        for steps in (40, 41, 100):
            assert relative_error(path(name)(A, steps), exact_sqrtm(A, power)).max() < 20 * eps * condition, steps


def test_newton_schulz_stops_by_itself():
    """The steps after convergence change nothing: not even the last bit, in root and gradient."""
    A = spd(20, 10, (3,), dtype=torch.float64)
    G = cotangent(A)
    ops = torch.ops.fastsqrtm
    if not native.loaded:
        pytest.skip("the twin takes every step")
    assert torch.equal(ops.ns(A, 20), ops.ns(A, 100))
    assert torch.equal(ops.ns_backward(A, G, 20), ops.ns_backward(A, G, 100))


# Every pair of the table.


@pytest.mark.parametrize("power", FUNCTIONS)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_gradients(pair, power):
    """Exact ones against finite differences, the others against the Lyapunov solution at the root that was computed."""
    method, backward = pair
    if method == "pi" and power < 0:
        return
    A = spd(5, 30, (2,), dtype=torch.float64)
    G = cotangent(A)
    function, arguments = FUNCTIONS[power], {"method": method, "backward": backward}
    if backward in ("exact", "ns"):
        assert torch.autograd.gradcheck(lambda A: function(A, **arguments), (A.requires_grad_(),))
        return
    if backward == "lyapunov" and method in ("mpa", "mtp"):
        arguments["iterations"] = 20
    S = function(A, **arguments)
    expected = lyapunov_gradient(S, G, power)
    tolerance = {"svd_pi": 1e-9, "svd_taylor": 1e-9}.get(backward, 1e-10)
    if backward in ("svd_pi", "svd_taylor"):
        A = torch.diag_embed(torch.tensor([[1.0, 0.3, 0.09], [2.0, 0.5, 0.1]], dtype=torch.float64))
        G, arguments["iterations"] = cotangent(A), 60
        expected = exact_gradient(A, G, power)
    assert relative_error(gradient(function, A, G, **arguments), expected).max() < tolerance


@pytest.mark.parametrize("power", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_eigendecomposition_is_the_closed_form(n, power):
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.float64, 1e-11)):
        A = spd(n, 100, (2, 3), dtype=dtype)
        for backward in ("exact", "lyapunov", "svd_pade", "bartels_stewart"):
            arguments = {"method": "eigh", "backward": backward}
            root = FUNCTIONS[power](A, **arguments)
            assert relative_error(root, exact_sqrtm(A, power)).max() < tolerance
            actual = gradient(FUNCTIONS[power], A, cotangent(A), **arguments)
            assert relative_error(actual, exact_gradient(A, cotangent(A), power)).max() < tolerance, backward


def test_power_iteration_is_the_dominant_pair():
    A = spd(6, 50, (4,), dtype=torch.float64)
    values, V = torch.linalg.eigh(A)
    v = V[..., -1:]
    root = paper.sqrtm(A, method="pi", degree=100)
    assert relative_error(root, values[:, -1, None, None].sqrt() * v @ v.mT).max() < 1e-6
    leaf = A.clone().requires_grad_()
    values, V = torch.linalg.eigh(leaf)
    closed = values[:, -1, None, None].sqrt() * V[..., -1:] @ V[..., -1:].mT
    (expected,) = torch.autograd.grad(closed, leaf, cotangent(A))
    expected = (expected + expected.mT) / 2
    assert relative_error(gradient(paper.sqrtm, A, cotangent(A), method="pi", degree=100), expected).max() < 1e-5
    zero = torch.zeros(3, 3, requires_grad=True)
    root = paper.sqrtm(zero, method="pi")
    assert torch.equal(root, torch.zeros(3, 3))
    assert torch.equal(torch.autograd.grad(root.sum(), zero)[0], torch.zeros(3, 3))


# Ties, for which the SVD family was made.


@pytest.mark.parametrize("backward", SPECTRAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", FUNCTIONS)
def test_ties_and_near_ties_are_finite(power, dtype, backward):
    """The gradient is bounded by the largest quotient of the formula there, a few times the right one."""
    for gap in (1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 1e-15, 0.0):
        values = torch.tensor([1.0, 1.0 - gap, 0.3, 0.3 * (1 - gap), 0.3, 1e-3, 1e-3 * (1 - gap)], dtype=torch.float64)
        Q = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
        A = ((Q * values) @ Q.mT).to(dtype)
        A = (A + A.mT) / 2
        X = gradient(FUNCTIONS[power], A, cotangent(A), method="eigh", backward=backward)
        exact = exact_gradient(A, cotangent(A), power)
        assert X.isfinite().all()
        assert X.norm() < 10 * exact.norm(), (gap, X.norm() / exact.norm())


def test_what_each_of_the_family_says_at_a_tie():
    values = torch.tensor([0.25, 1.0, 1.0], dtype=torch.float64)
    at_tie = {name: divided_differences(values, False, name, 9)[1, 2].item() for name in [*SPECTRAL, "exact"]}
    assert at_tie == {"svd_pi": 1.0, "svd_taylor": 0.0, "svd_pade": 0.0, "exact": 0.5}
    near = torch.tensor([0.25, 1.0 - 1e-6, 1.0], dtype=torch.float64)
    pade, exact = (divided_differences(near, False, name, 0)[1, 2].item() for name in ("svd_pade", "exact"))
    assert pade == pytest.approx(exact, rel=1e-8)


def test_the_series_converge_with_their_length():
    A = torch.diag(torch.tensor([1.0, 0.6, 0.2], dtype=torch.float64))
    G = cotangent(A)
    for backward, power in itertools.product(("svd_pi", "svd_taylor"), FUNCTIONS):
        errors = [
            relative_error(
                gradient(FUNCTIONS[power], A, G, method="eigh", backward=backward, iterations=k),
                exact_gradient(A, G, power),
            ).item()
            for k in (2, 9, 30, 90)
        ]
        assert errors == sorted(errors, reverse=True) and errors[0] > 1e-2 and errors[-1] < 1e-10


# Root and gradient that belong together.


@pytest.mark.parametrize("method", ["ns", "eigh"])
@pytest.mark.parametrize("kappa", [1e2, 1e4])
def test_lyapunov_gradient_of_a_converged_root_is_exact_by_default(kappa, method):
    for power, dtype in itertools.product(FUNCTIONS, (torch.float32, torch.float64)):
        A = spd(16, kappa, (3,), dtype=dtype)
        actual = gradient(FUNCTIONS[power], A, cotangent(A), method=method, backward="lyapunov")
        error = relative_error(actual, exact_gradient(A, cotangent(A), power)).max()
        assert error < 100 * kappa * torch.finfo(dtype).eps
    printed = gradient(paper.sqrtm, A, cotangent(A), method=method, backward="lyapunov", iterations=8)
    assert relative_error(printed, exact_gradient(A, cotangent(A))).max() > 1e-4


def test_ns_lya_diverges_as_printed_and_converges_by_default():
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    from bench.paper.training import TRAINED, train

    final = {}
    for name in ("NS-Lya as printed", "NS-Lya (default)", "MPA-Lya", "NS"):
        final[name] = train(TRAINED[name], eps=1e-5, seed=0, epochs=3)["final_loss"]
    assert not final.pop("NS-Lya as printed") < 10  # it began at 2.3
    assert max(final.values()) < 0.5


# Contracts.


def failure(function=paper.sqrtm, **arguments):
    with pytest.raises(RuntimeError) as error:
        function(torch.eye(3), **arguments)
    return str(error.value)


def test_what_does_not_exist_is_refused_with_what_does():
    for method, row in METHODS.items():
        expected = (
            f"fastsqrtm.paper.sqrtm: backward of method {method} must be auto or one of {', '.join(row)}, got 'svd'"
        )
        assert failure(method=method, backward="svd") == expected
    expected = "fastsqrtm.paper.inv_sqrtm: a method with an inverse root is needed, got method pi"
    assert failure(paper.inv_sqrtm, method="pi") == expected
    assert failure(method="eigh", degree=3).startswith(
        "fastsqrtm.paper.sqrtm: degree is not an argument of method eigh"
    )
    assert failure(method="ns", iterations=3).startswith(
        "fastsqrtm.paper.sqrtm: iterations is not an argument of method ns"
    )
    assert failure(method="eigh", backward="svd_pade", iterations=3).startswith(
        "fastsqrtm.paper.sqrtm: iterations is not"
    )
    assert failure(method="ns", backward="lyapunov", degree=101) == (
        "fastsqrtm.paper.sqrtm: degree must be from 1 to 100, got 101"
    )
    assert failure(method="eigh", backward="svd_pi", iterations=0) == (
        "fastsqrtm.paper.sqrtm: iterations must be from 1 to 100, got 0"
    )
    assert failure(method="mpa", backward="bartels_stewart", degree=33) == (
        "fastsqrtm.paper.sqrtm: degree must be from 1 to 32, got 33"
    )


@pytest.mark.parametrize("pair", COMBINED, ids="-".join)
def test_batches_dtypes_and_bad_matrices(pair):
    method, backward = pair
    arguments = {"method": method, "backward": backward}
    A = spd(4, 10, (5,), dtype=torch.float64)
    alone = torch.stack([paper.sqrtm(a, **arguments) for a in A])
    assert relative_error(paper.sqrtm(A, **arguments), alone).max() < 1e-13
    assert paper.sqrtm(A[:0], **arguments).shape == (0, 4, 4)
    assert paper.sqrtm(A.view(1, 5, 1, 4, 4), **arguments).shape == (1, 5, 1, 4, 4)
    for dtype, tolerance in ((torch.float16, 5e-2), (torch.bfloat16, 1e-1)):
        half = paper.sqrtm(A.to(dtype), **arguments)
        assert half.dtype == dtype and relative_error(half, alone).max() < tolerance
    bad = A.clone()
    bad[1, 0, 0], bad[2], bad[3, 1, 2] = math.nan, 0.0, math.inf
    for function in (paper.sqrtm, paper.inv_sqrtm):
        if function is paper.inv_sqrtm and method == "pi":
            continue
        leaf = bad.clone().requires_grad_()
        root = function(leaf, **arguments)
        (X,) = torch.autograd.grad(root, leaf, torch.ones_like(leaf))
        good = function(A[::4], **arguments)
        assert relative_error(root.detach()[::4], good).max() < 1e-13
        assert root[1].isnan().any() and root[3].isnan().any()
        assert X[::4].isfinite().all() and torch.equal(X[2], torch.zeros(4, 4, dtype=torch.float64))
    zero = torch.zeros(4, 4, dtype=torch.float64)
    assert torch.equal(paper.sqrtm(bad, **arguments)[2], zero)
    if method != "pi":
        infinite = torch.full((4,), math.inf, dtype=torch.float64).diag()
        assert torch.equal(paper.inv_sqrtm(bad, **arguments)[2], infinite)


@pytest.mark.parametrize("backward", METHODS["eigh"])
def test_singular_matrices_have_finite_gradients(backward):
    A = spd(6, 10, (2,), "rank_deficient", torch.float64)
    root = paper.sqrtm(A, method="eigh", backward=backward)
    assert relative_error(root @ root, A).max() < 1e-13
    for function in FUNCTIONS.values():
        assert gradient(function, A, cotangent(A), method="eigh", backward=backward).isfinite().all()
    indefinite = torch.diag(torch.tensor([1.0, -0.1]))
    assert paper.sqrtm(indefinite, method="eigh", backward=backward).isnan().all()


@pytest.mark.parametrize(("method", "backward"), [pair for pair in COMBINED if pair[0] != "pi"], ids=str)
@pytest.mark.parametrize("power", FUNCTIONS)
def test_forward_mode_of_a_combination(power, method, backward):
    """The tangent is the adjoint of the gradient; a derivative of either raises."""
    jvp, vjp, grad = torch.func.jvp, torch.func.vjp, torch.func.grad
    A = spd(4, 10, (3,), dtype=torch.float64)
    D, G = cotangent(A, 2), cotangent(A)

    def root(A):
        return FUNCTIONS[power](A, method=method, backward=backward)

    S, tangent = jvp(root, (A,), (D,))
    assert torch.equal(S, root(A))
    assert (G * tangent).sum().item() == pytest.approx((vjp(root, A)[1](G)[0] * D).sum().item(), rel=1e-10)
    mapped = torch.vmap(lambda A, D: jvp(root, (A,), (D,))[1])(A, D)
    assert relative_error(mapped, tangent).max() < 1e-12
    with torch.autograd.forward_ad.dual_level():
        dual = root(torch.autograd.forward_ad.make_dual(A, D))
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent)

    def along(A):
        return jvp(root, (A,), (D,))[1].sum()

    leaf = A.clone().requires_grad_()
    for second in (
        lambda: grad(along)(A),
        lambda: jvp(along, (A,), (D,)),
        lambda: jvp(grad(lambda A: root(A).square().sum()), (A,), (D,)),
        lambda: torch.autograd.grad(along(leaf), leaf),
    ):
        with pytest.raises(RuntimeError, match="differentiate once"):
            second()


def test_no_tangent_in_a_compiled_combination():
    """It would be that of the forward method, whatever the backward."""
    torch._dynamo.reset()
    A, jvp = spd(4, 10, (2,), dtype=torch.float64), torch.func.jvp

    def root(A):
        return paper.sqrtm(A, method="mpa", backward="bartels_stewart")

    compiled = torch.compile(root, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(A), root(A))
    text = "fastsqrtm.paper.sqrtm: the method and backward must be one op, .* got forward mode in a compiled graph"
    with torch.autograd.forward_ad.dual_level(), pytest.raises(Exception, match=text):
        compiled(torch.autograd.forward_ad.make_dual(A, A))
    with pytest.raises(Exception, match=text):
        torch.compile(lambda A: jvp(root, (A,), (A,)), fullgraph=True, backend="aot_eager")(A)


def test_transforms():
    A = spd(4, 10, (3,), dtype=torch.float64)
    for method, backward in COMBINED:
        if method == "pi":
            continue

        def loss(A, method=method, backward=backward):
            return paper.sqrtm(A, method=method, backward=backward).square().sum()

        expected = gradient(lambda A, loss=loss: loss(A), A, None)
        assert relative_error(torch.func.grad(loss)(A), expected).max() < 1e-12, (method, backward)
        assert relative_error(torch.func.vmap(torch.func.grad(loss))(A), expected).max() < 1e-12, (method, backward)
    leaf = A.clone().requires_grad_()
    second = torch.autograd.grad(paper.sqrtm(leaf, method="eigh").sum(), leaf, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiate once"):
        second.sum().backward()


@pytest.mark.parametrize(
    "pair", [("ns", "ns"), ("ns", "lyapunov"), ("eigh", "svd_taylor"), ("pi", "exact")], ids="-".join
)
def test_compiles_without_a_break(pair):
    method, backward = pair
    A = spd(4, 10, (3,), dtype=torch.float64)
    G = cotangent(A)
    compiled = torch.compile(paper.sqrtm, fullgraph=True, backend="aot_eager")
    arguments = {"method": method, "backward": backward}
    assert torch.equal(gradient(compiled, A, G, **arguments), gradient(paper.sqrtm, A, G, **arguments))


def test_info_of_every_system():
    A = spd(6, 5, (2,), dtype=torch.float64)
    for method, backward in PAIRS:
        info = fastsqrtm.root_info(A, paper.sqrtm(A, method=method, backward=backward))
        assert info.converged.shape == (2,)
        converges = method == "eigh" or (method == "ns" and backward in ("lyapunov", "bartels_stewart"))
        assert info.converged.all() == converges, (method, backward)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backward", ["lyapunov", "bartels_stewart"])
@pytest.mark.parametrize("power", FUNCTIONS)
def test_newton_schulz_that_does_not_converge_is_nan(power, backward, dtype):
    """Rounding makes singular matrices indefinite: an eigenvalue below zero grows without bound, in that matrix."""
    X = torch.randn(20, 16, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    A = torch.cat((X @ X.mT, spd(16, 1e4, (2,), dtype=dtype), torch.zeros(1, 16, 16, dtype=dtype)))
    root = FUNCTIONS[power](A, method="ns", backward=backward)
    assert root[:20].isnan().flatten(1).all(1).sum() >= 15
    exact = exact_sqrtm(A[:20])
    ours = root[:20] if power > 0 else A[:20] @ root[:20]
    errors = relative_error(ours, exact)
    assert errors[errors.isfinite()].le(0.1).all()
    assert relative_error(root[20:22], exact_sqrtm(A[20:22], power)).max() < 1e5 * torch.finfo(dtype).eps
    alone = FUNCTIONS[power](A[20:], method="ns", backward=backward)
    if native.loaded:
        assert torch.equal(root[20:], alone)
    else:  # the twin rounds by the batch
        assert relative_error(root[20:22], alone[:2]).max() < 1e5 * torch.finfo(dtype).eps
    if power > 0:
        assert root[22].count_nonzero() == 0
    X = gradient(FUNCTIONS[power], A, torch.ones_like(A), method="ns", backward=backward)
    assert torch.equal(X.isnan().flatten(1).all(1), root.isnan().flatten(1).all(1))
