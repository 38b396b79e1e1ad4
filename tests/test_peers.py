"""Each peer is right: it equals the closed form where its method is accurate."""

import itertools
import sys
from pathlib import Path

import pytest
import torch

from fastsqrtm.testing import exact_gradient, exact_sqrtm, relative_error, spd, time_in_turn

sys.path.append(str(Path(__file__).resolve().parent.parent))  # at the end: an installed fastsqrtm goes first
from bench import peers

# Condition number, degree or iterations, and the relative error the method can have there.
ACCURATE = {
    "mpa_lya": (3.0, {"degree": 10, "iterations": 12}, 1e-6),
    "mtp_lya": (1.5, {"degree": 40, "iterations": 12}, 1e-6),
    "newton_schulz": (10.0, {"iterations": 12}, 1e-10),
    "eigh": (100.0, {}, 1e-10),
}


def test_both_gradients_of_newton_schulz_are_those_of_the_op():
    A = spd(7, kappa=20, batch=(2,), dtype=torch.float64).requires_grad_()
    G = spd(7, kappa=10, batch=(2,), dtype=torch.float64, seed=1)
    for iterations in (1, 2, 3, 5, 8):
        expected = torch.ops.fastsqrtm.ns_backward(A.detach(), G, iterations)
        for function in (peers.newton_schulz, peers.newton_schulz_adjoint):
            root = function(A, iterations)
            assert relative_error(root.detach(), torch.ops.fastsqrtm.ns(A.detach(), iterations)).max() < 1e-13
            assert relative_error(torch.autograd.grad(root, A, G)[0], expected).max() < 1e-12


@pytest.mark.parametrize("inverse", [False, True], ids=["root", "inverse_root"])
@pytest.mark.parametrize("name", ACCURATE)
def test_root_and_gradient_are_those_of_the_closed_form(name, inverse):
    kappa, options, tolerance = ACCURATE[name]
    A = spd(4, kappa=kappa, batch=(2, 3), dtype=torch.float64).requires_grad_()
    G = spd(4, kappa=10, batch=(2, 3), dtype=torch.float64, seed=1)
    root = getattr(peers, name)(A, inverse=inverse, **options)
    (gradient,) = torch.autograd.grad(root, A, G)
    power = -0.5 if inverse else 0.5
    assert relative_error(root.detach(), exact_sqrtm(A.detach(), power)).max() < tolerance
    assert relative_error(gradient, exact_gradient(A.detach(), G, power)).max() < tolerance


@pytest.mark.skipif(not hasattr(torch.linalg, "matrix_sqrth"), reason="torch >= 2.14 has it")
def test_matrix_sqrth():
    A = spd(4, kappa=100, batch=(3,), dtype=torch.float64).requires_grad_()
    G = torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    (gradient,) = torch.autograd.grad(peers.matrix_sqrth(A), A, G)
    assert relative_error(gradient, exact_gradient(A.detach(), G)).max() < 1e-10


def test_batched_solve_runs_on_one_thread_where_mkl_hangs(monkeypatch):
    used = []
    solve = torch.linalg.solve

    def recorder(*args):
        used.append(torch.get_num_threads())
        return solve(*args)

    monkeypatch.setattr(torch.linalg, "solve", recorder)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for batch, n in ((2, 200), (1, 200), (2, 8)):
            peers.mpa_lya(torch.eye(n).expand(batch, n, n))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert used == [1, 2, 2]


def test_contenders_are_timed_in_turn():
    order = []
    times = time_in_turn({name: lambda name=name: order.append(name) for name in "ab"}, 0.0)
    assert {name: len(t) for name, t in times.items()} == {"a": 3, "b": 3}
    assert all(t > 0 for t in times["a"] + times["b"])
    switches = sum(x != y for x, y in itertools.pairwise(order))
    assert switches == 2 * 3 + 1  # the two warm-ups, then a b a b a b
