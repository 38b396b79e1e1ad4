"""The QR kernels of the CPU: small matrices side by side in vectors, larger ones in panels."""

import pytest
import torch

OPS = ("qr", "qr_complete", "qr_pivoted", "qr_pivoted_complete")
SHAPES = [(1, 1), (4, 4), (5, 20), (20, 5), (20, 20), (32, 32), (33, 33), (40, 70), (100, 9)]


def call(name, A):
    return getattr(torch.ops.fastsqrtm, name)(A)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_a_matrix_has_the_same_bits_alone_and_in_any_batch(name, dtype, m, n):
    """Few matrices take narrower vectors than many; a zero matrix takes the slow way to its norms beside the others."""
    A = torch.randn(19, m, n, dtype=dtype)
    A[3] = 0
    together = call(name, A)
    for some in (slice(0, 1), slice(5, 8), slice(18, 19), slice(2, 12)):
        apart = call(name, A[some].mT.contiguous().mT)
        assert all(torch.equal(x[some], y) for x, y in zip(together, apart, strict=True))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("n", [4, 20, 50])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_matrix_with_nan_harms_no_other(name, n, bad):
    A = torch.randn(19, n, n)
    good = [i for i in range(19) if i not in (2, 17)]
    before = call(name, A)
    A[2, n // 2, 0] = A[17, 0, n - 1] = bad
    Q, R, *P = after = call(name, A)
    assert all(torch.equal(x[good], y[good]) for x, y in zip(before, after, strict=True))
    for i in (2, 17):
        assert Q[i].isnan().all() and R[i].isnan().all()
        assert all(torch.equal(p[i], torch.arange(n)) for p in P)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_long_matrices(dtype, bad):
    """torch's QR takes them, with the policy of the other sizes."""
    A = torch.randn(3, 600, 5, dtype=torch.float64).to(dtype)
    Q, R = call("qr", A)
    for found, expected in zip((Q, R), torch.linalg.qr(A.to(torch.float64)), strict=True):
        assert found.is_contiguous()
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e3 * torch.finfo(dtype).eps)
    A[1, 500, 2] = bad
    for found, before in zip(call("qr", A), (Q, R), strict=True):
        assert found[1].isnan().all() and torch.equal(found[::2], before[::2])


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize(("dtype", "exponent"), [(torch.float32, 120), (torch.float64, 1000)])
@pytest.mark.parametrize("sign", [1, -1])
def test_powers_of_two_scale_r_alone(name, n, dtype, exponent, sign):
    """Columns so large or so small that the squares of their entries leave the range of the dtype."""
    A = torch.randn(3, n, n, dtype=dtype)
    Q, R, *P = call(name, A)
    factor = 2.0 ** (sign * exponent)
    scaled_Q, scaled_R, *scaled_P = call(name, A * factor)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(scaled_Q, Q, rtol=0, atol=1e4 * eps)
    torch.testing.assert_close(scaled_R / factor, R, rtol=0, atol=1e4 * eps)
    assert all(torch.equal(p, scaled) for p, scaled in zip(P, scaled_P, strict=True))
