"""Rounding: at any condition number and up to n = 200 the ops lose at most twice what the plain-torch twin loses.

Errors are those against the same mathematics in higher precision: for float32 the twin in float64, for float64 the
formulas below in numpy's extended precision.

For a single matrix either may be right by luck, the more so the smaller it is, and the luck changes with the
instruction set that sums the products. Therefore the promise is about means over enough matrices. The unit of each
error is the effect of the conditioning of the matrix: otherwise the worst conditioned matrix, one sample, would decide
the mean.

Nothing is promised beyond n = 200. At n = 400 the quotient is at most 1.7, but for roots at condition number 1: they
are right to two precisions there, and the twin's to a quarter of one.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fastsqrtm
import op_cases
from fastsqrtm import testing
from fastsqrtm._ops.native import native
from fastsqrtm._reference.matrix import symmetric_part
from op_cases import CASES, OPS

sys.path.append(str(Path(__file__).resolve().parent.parent))  # at the end: an installed fastsqrtm goes first
from bench import peers

KAPPAS = [1e0, 1e2, 1e4, 1e6, 1e8]
ANOTHER_PROCESSOR = bool(os.environ.get("FASTSQRTM_CPU_CAPABILITY"))  # set by test_every_instruction_set
SLOW_SIZES = (5, 13, 31, 32, 48, 63, 65, 128, 129, 200)  # two thirds of the time
SIZES = [1, 2, 3, 8, 16, 17, 33, 64, 100, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW_SIZES)]
if ANOTHER_PROCESSOR:  # its kernels differ in the vectors, so one size for each way of filling them is enough
    SIZES = [2, 3, 7, 13, 33, 65]


@functools.cache
def matrix(n, kappa, batch):
    return testing.spd(n, kappa, (batch,), dtype=torch.float64, seed=n)


def sensitivity(name, arguments, exact, truth):
    """The effect on each result, in precisions, of a random relative change of one precision in every argument.

    The largest of four changes, as one or two may miss the one sensitive direction of an inverse root, and an error
    in a unit too small by chance would outweigh the others; at least 1, the rounding of the result.
    """
    eps = torch.finfo(arguments[0].dtype).eps
    generator = torch.Generator().manual_seed(0)

    def changed(x, line):
        E = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        dims = tuple(range(-len(line.dims), 0))
        size, size_of_e = (torch.linalg.vector_norm(y, dim=dims, keepdim=True) if dims else y for y in (x.double(), E))
        return x.double() + eps * size / size_of_e * E

    found = []
    for _ in range(4):
        tensors = map(changed, arguments, OPS[name].tensors)
        found.append(op_cases.errors(name, truth(name, *tensors), exact))
    return [(torch.stack(pair).amax(0) / eps).clamp_min(1) for pair in zip(*found, strict=True)]


def check(name, n, dtype, truth, batch):
    for kappa in KAPPAS:
        if kappa > CASES[name].largest_kappa:
            continue
        arguments = op_cases.inputs_at(name, matrix(n, kappa, batch), dtype, seed=n)
        exact = truth(name, *arguments)
        units = sensitivity(name, arguments, exact, truth)
        ours, theirs = (
            op_cases.errors(name, function(*arguments), exact)
            for function in (op_cases.dispatched(name), testing.twin(name))
        )
        for unit, our, their in zip(units, ours, theirs, strict=True):
            # Three more roundings, for the sizes at which the twin is right to the last bit.
            slack = 3 * torch.finfo(dtype).eps * (1 / unit).mean()
            assert (our / unit).mean() <= 2 * (their / unit).mean() + slack, (kappa, our, their)


def in_float64(name, *arguments):
    return testing.twin(name)(*(x.double() for x in arguments))


def samples(name, enough):
    """The error of a large matrix is a mean by itself, over its entries; that of one number a matrix is not."""
    return min(64, max(2 if all(result.dims for result in OPS[name].results) else 32, enough))


@pytest.mark.usefixtures("native_only")
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("n", SIZES)
def test_float32(name, n):
    check(name, n, torch.float32, in_float64, batch=samples(name, 512 // n))


def in_extended(name, *arguments):
    last = len(arguments) - 1
    arguments = [x if i == last and last else symmetric_part(x) for i, x in enumerate(arguments)]
    matrices = zip(*(x.numpy().astype(np.longdouble) for x in arguments), strict=True)
    # errors works in float64: enough to tell errors of a few ulp from one another.
    return torch.from_numpy(np.stack([CASES[name].extended(*each) for each in matrices]).astype(np.float64))


@pytest.mark.usefixtures("native_only")
@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no extended precision on this platform")
@pytest.mark.parametrize("n", [1, 2, 3, 8, 17, 33])
@pytest.mark.parametrize("name", [name for name in OPS if CASES[name].extended])
def test_float64(name, n):
    check(name, n, torch.float64, in_extended, batch=samples(name, 256 // n))


@pytest.mark.slow
@pytest.mark.usefixtures("native_only")
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(capability):
    """The tests above, those of the views and those of the roots with the kernels of other processors."""
    if ANOTHER_PROCESSOR:
        pytest.skip("runs inside of itself")
    if native.C.cpu_capability() in (capability, "baseline"):
        pytest.skip("this one is what runs here, or the only one")
    tests = os.path.dirname(__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
    for chosen in (
        (f"{tests}/test_accuracy.py", f"{tests}/test_inputs.py", "-k", "float or views and op"),
        (f"{tests}/test_sqrtm.py", "-m", "not slow", "-k", "not reference"),
    ):
        run = subprocess.run(
            [*command, *chosen],
            env={**os.environ, "FASTSQRTM_CPU_CAPABILITY": capability},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


@pytest.mark.parametrize("kappa", [1e3, 1e6])
def test_partial_fractions_keep_the_digits_that_a_quotient_of_polynomials_loses(kappa):
    """The claim of docs/design.md: two ways to compute one rational function differ by at least two digits."""
    A = testing.spd(64, kappa, (4,), dtype=torch.float64, seed=5)
    exact = testing.twin("mpa_lya")(A)
    quotient = testing.relative_error(peers.mpa_lya(A.float()), exact)
    fractions = testing.relative_error(fastsqrtm.mpa_lya(A.float()), exact)
    assert (100 * fractions < quotient).all(), (fractions, quotient)


@pytest.mark.parametrize("scale", [1e-26, 1e26])
@pytest.mark.parametrize("name", ["mpa_lya", "mpa_lya_inv", "sqrtm", "inv_sqrtm", "mpa", "mpa_inv", "ns_inv"])
def test_a_gradient_in_range_whose_scale_is_not(name, scale):
    """nu^(3/2) of the inverse root is beyond float32 here; with a cotangent to match, the gradient is not."""
    A = testing.spd(4, 3.0) * scale
    G = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) * scale**0.5
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = A.to(dtype).requires_grad_()
        root = getattr(torch.ops.fastsqrtm, name)(leaf)
        gradients.append(torch.autograd.grad(root, leaf, G.to(dtype))[0])
    assert testing.relative_error(*gradients) < 1e-5


@pytest.mark.parametrize("degree", [5, 32])
@pytest.mark.parametrize("name", ["mpa_backward", "mpa_inv_backward"])
def test_a_sum_over_many_products_rounds_as_a_short_one(name, degree):
    A = 0.37 * testing.spd(200, 10.0, (4,), seed=200)
    G = torch.randn(4, 200, 200, generator=torch.Generator().manual_seed(200))
    exact = testing.twin(name)(A.double(), G.double(), degree)
    ours, twin = (f(A, G, degree) for f in (getattr(torch.ops.fastsqrtm, name), testing.twin(name)))
    ours, twin = (testing.relative_error(x, exact).mean() for x in (ours, twin))
    assert ours <= 2 * twin + 3 * torch.finfo(torch.float32).eps
