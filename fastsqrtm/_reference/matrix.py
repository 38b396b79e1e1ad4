"""Shared by several ops: the symmetric part, the normaliser, SPD solves and inverses, in plain torch, batched."""

import math

import torch
from torch import Tensor

RIDGES = (0, 1, 8, 64, 1024)
"""Multiples of the precision that are added to a matrix until it is positive definite: csrc/scalars/zolotarev.h."""


def symmetric_part(A: Tensor) -> Tensor:
    """(A + A^T)/2, halved before the sum so that it does not overflow."""
    return A / 2 + A.mT / 2


def anticommutator(A: Tensor, B: Tensor) -> Tensor:
    return A @ B + B @ A


def identity_like(A: Tensor, scale: float = 1.0) -> Tensor:
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device) * scale


def infinite_like(A: Tensor) -> Tensor:
    """The inverse root of zero: +inf on the diagonal."""
    return A.new_full(A.shape[:-1], math.inf).diag_embed()


def is_infinite(Z: Tensor) -> Tensor:
    """Whether Z is the inverse root of zero, (..., 1, 1)."""
    return (Z == infinite_like(Z)).all(-1, True).all(-2, True)


def normalise(A: Tensor) -> tuple[Tensor, Tensor]:
    """A/||A||_F and ||A||_F (..., 1, 1), through max |a_ij|, so that no square over- or underflows. Zero stays zero,
    and every derivative there is zero as well.
    """
    largest = A.abs().amax((-2, -1), keepdim=True)
    zero = largest == 0
    X = torch.where(zero, 1, A / torch.where(zero, 1, largest))
    norm = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
    return torch.where(zero, 0, X / norm), largest * norm


def one_norm(A: Tensor) -> Tensor:
    return A.abs().sum(-2, keepdim=True).amax(-1, keepdim=True)


def sqrt_of_norm(nu: Tensor) -> Tensor:
    """The square root, and 1 for 0, where the derivative would be infinite."""
    return torch.where(nu == 0, 1, nu).sqrt()


def spd_solve(A: Tensor, B: Tensor) -> Tensor:
    """A^-1 B by Cholesky, as batched LU can hang on CPU; NaN for the matrices that are not positive definite."""
    factor, info = torch.linalg.cholesky_ex(A)
    return torch.cholesky_solve(B, factor).masked_fill(info[..., None, None] != 0, math.nan)


def spd_inverse(A: Tensor) -> tuple[Tensor, Tensor]:
    """A^-1, and whether A was positive definite, (..., 1, 1)."""
    factor, info = torch.linalg.cholesky_ex(A)
    good = (info == 0)[..., None, None]
    return torch.cholesky_inverse(torch.where(good, factor, identity_like(A))), good


def inverse_with_ridge(B: Tensor, entry_precision: float) -> tuple[Tensor, Tensor]:
    """B with the ridge it needs, and its inverse; NaN where it is indefinite. The last ridge covers the rounding of the
    entries. Twin: invert in csrc/cpu/steps/inverse.h.
    """
    unit = max(torch.finfo(B.dtype).eps, entry_precision / RIDGES[-1]) * one_norm(B) * identity_like(B)
    W, good = spd_inverse(B)
    for ridge in RIDGES[1:]:
        if may_stop(good):
            break
        B = torch.where(good, B, B + ridge * unit)
        inverse, now = spd_inverse(B)
        W, good = torch.where(good, W, inverse), good | now
    return B, torch.where(good, W, math.nan)


def spectral_estimate(A: Tensor, steps: int) -> Tensor:
    """A lower bound of the norm of symmetric matrices, (..., 1, 1), close after few steps: power iteration from the
    column of the largest diagonal entry.
    """
    largest = A.diagonal(dim1=-2, dim2=-1).abs().argmax(-1)[..., None, None]
    v = A.gather(-1, largest.expand(*A.shape[:-1], 1))
    for step in range(steps):
        norm = torch.linalg.vector_norm(v, dim=-2, keepdim=True)
        if step + 1 < steps:
            v = A @ (v / torch.where(norm == 0, 1, norm))
    return norm


def inverse_of_root(B: Tensor, entry_precision: float) -> tuple[Tensor, Tensor]:
    """The same for roots B. Those with an eigenvalue below d, where d^2 is the precision in units of ||B||, become
    B + d^2 (B + d I)^-1 first: null directions were clamped to zero. Twin: invert_root in csrc/cpu/steps/inverse.h.
    """
    W, good = spd_inverse(B)
    d = torch.finfo(B.dtype).eps ** 0.5 * spectral_estimate(B, 5)
    good = good & (spectral_estimate(W, 5) * d <= 1)
    if may_stop(good):
        return B, W
    floored, inverse = inverse_with_ridge(B + d * identity_like(B), entry_precision)
    B = torch.where(good, B, floored - d * identity_like(B) + d.square() * inverse)
    return inverse_with_ridge(B, entry_precision)


def may_stop(done: Tensor) -> bool:
    """Whether a loop may end early. On a GPU it goes on to its last step: asking would wait for the device."""
    return done.device.type == "cpu" and bool(done.all())
