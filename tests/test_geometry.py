"""The formulas of docs/guide/spd.md, which are run from there, against eigenvalues in float64."""

import re
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck

import fastsqrtm
from fastsqrtm.testing import exact_sqrtm, relative_error, spd

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "guide" / "spd.md").read_text()
DOUBLE = torch.float64


@pytest.fixture(scope="module")
def page():
    """The functions that the page defines, without what it prints."""
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if "def " in code or "import" in code:
            exec(code.split("\n\n\nprint")[0], names)
    return names


@pytest.fixture(scope="module")
def pair():
    return [spd(8, 1e3, (3,), dtype=DOUBLE, seed=seed) for seed in (0, 1)]


def by_eigenvalues(A, function):
    w, V = torch.linalg.eigh(A)
    return (V * function(w)[..., None, :]) @ V.mT


def test_distance(page, pair):
    P, Q = pair
    values = torch.linalg.eigvals(torch.linalg.solve(P, Q)).real
    expected = values.log().square().sum(-1).sqrt()
    assert torch.allclose(page["distance"](P, Q), expected, rtol=1e-10)
    assert torch.allclose(page["distance"](Q, P), expected, rtol=1e-10)
    logs = [by_eigenvalues(A, torch.log) for A in pair]
    assert torch.allclose(page["log_euclidean_distance"](P, Q), torch.linalg.matrix_norm(logs[0] - logs[1]))


def test_exponential_and_logarithmic_map(page, pair):
    P, Q = pair
    S, Z = exact_sqrtm(P), exact_sqrtm(P, -0.5)
    K = Z @ Q @ Z
    expected = S @ by_eigenvalues((K + K.mT) / 2, torch.log) @ S
    V = page["log_map"](P, Q)
    assert (relative_error(V, expected) < 1e-10).all()
    assert (relative_error(page["exp_map"](P, V), Q) < 1e-9).all()
    length = torch.linalg.matrix_norm(Z @ V @ Z)
    assert torch.allclose(length, page["distance"](P, Q), rtol=1e-9)


def test_geodesic_middle_and_transport(page, pair):
    P, Q = pair
    M = page["middle"](P, Q)
    assert (relative_error(M @ fastsqrtm.inv(P) @ M, Q) < 1e-10).all()
    V = page["log_map"](P, Q)
    assert (relative_error(page["exp_map"](P, V / 2), M) < 1e-9).all()
    # Along its own geodesic a velocity becomes the velocity at the other end, and lengths are kept.
    assert (relative_error(page["transport"](P, Q, V), -page["log_map"](Q, P)) < 1e-8).all()
    W = spd(8, 5.0, (3,), dtype=DOUBLE, seed=2)
    Z_P, Z_Q = (exact_sqrtm(A, -0.5) for A in pair)
    moved = page["transport"](P, Q, W)
    lengths = (torch.linalg.matrix_norm(Z @ X @ Z) for Z, X in ((Z_P, W), (Z_Q, moved)))
    assert torch.allclose(*lengths, rtol=1e-9)
    E = fastsqrtm.sqrtm_general(Q @ fastsqrtm.inv(P))
    assert (relative_error(moved, E @ W @ E.mT) < 1e-8).all()


def test_means(page):
    matrices = spd(5, 30.0, (6,), dtype=DOUBLE)
    M = page["mean"](matrices)
    Z = exact_sqrtm(M, -0.5)
    tangents = by_eigenvalues(Z @ matrices @ Z, torch.log)
    assert torch.linalg.matrix_norm(tangents.mean(0)) < 1e-9 * torch.linalg.matrix_norm(tangents).mean()
    logs = by_eigenvalues(matrices, torch.log).mean(0)
    assert torch.allclose(page["log_euclidean_mean"](matrices), by_eigenvalues(logs, torch.exp))
    commuting = torch.diag_embed(torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) + 0.1)
    geometric = commuting.diagonal(dim1=-2, dim2=-1).log().mean(0).exp().diag()
    for mean in (page["mean"], page["log_euclidean_mean"]):
        assert torch.allclose(mean(commuting), geometric)


@pytest.mark.parametrize("name", ["distance", "middle", "log_map", "exp_map"])
def test_gradients(page, name):
    P, Q = (spd(3, 5.0, dtype=DOUBLE, seed=seed).requires_grad_() for seed in (0, 1))
    symmetric = lambda A, B: page[name]((A + A.mT) / 2, (B + B.mT) / 2)  # noqa: E731
    assert gradcheck(symmetric, (P, Q))
    if name in ("distance", "middle"):
        I = torch.eye(3, dtype=DOUBLE).requires_grad_()  # noqa: E741
        assert torch.autograd.grad(symmetric(I, 2 * I).sum(), I)[0].isfinite().all()
