"""The inverse of a symmetric positive definite matrix and the logarithm of its determinant, and their gradient.

Z = A^-1:  dZ = -Z dA Z  and  d log det A = <Z, dA>, both for the symmetric part of dA.
"""

import math

import torch
from torch import Tensor

from .._ops.definition import Rule, op
from .._ops.route import call
from .matrix import identity_like, infinite_like, is_infinite, symmetric_part


def inverse_and_log_determinant(A: Tensor) -> tuple[Tensor, Tensor]:
    """NaN where A is not finite or not positive definite. The zero matrix has +inf on the diagonal, and -inf."""
    A = symmetric_part(A)
    zero = (A == 0).all(-1, True).all(-2, True)
    finite = A.isfinite().all(-1, True).all(-2, True)
    factor, info = torch.linalg.cholesky_ex(torch.where(finite, A, 0))
    good = finite & (info == 0)[..., None, None]
    factor = torch.where(good, factor, identity_like(A))
    Z = symmetric_part(torch.cholesky_inverse(factor))
    logdet = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    Z, logdet = torch.where(good, Z, math.nan), torch.where(good[..., 0, 0], logdet, math.nan)
    return torch.where(zero, infinite_like(A), Z), torch.where(zero[..., 0, 0], -math.inf, logdet)


@op
def inv(A: Tensor) -> Tensor:
    """Z = A^-1."""
    return inverse_and_log_determinant(A)[0]


inv.rule = Rule(lambda A, Z: (Z,), "inv_backward", "inv_backward")


@op
def inv_and_logdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """Z = A^-1 and log det A."""
    return inverse_and_log_determinant(A)


def _inv_and_logdet_vjp(Z: Tensor, _: tuple, G: Tensor, g: Tensor) -> Tensor:
    along = torch.where(is_infinite(Z), 0, g[..., None, None] * Z)
    return call("inv_backward", Z, G) + along


def _inv_and_logdet_jvp(Z: Tensor, _: tuple, dA: Tensor) -> tuple[Tensor, Tensor]:
    along = torch.where(is_infinite(Z), 0, Z * symmetric_part(dA))
    return call("inv_backward", Z, dA), along.sum((-2, -1))


inv_and_logdet.rule = Rule(lambda A, Z, _: (Z,), _inv_and_logdet_vjp, _inv_and_logdet_jvp)


@op
def inv_backward(Z: Tensor, G: Tensor) -> Tensor:
    """X = -Z sym(G) Z, self-adjoint in G; 0 where Z is the inverse of zero, NaN where it is not finite."""
    Z, G = symmetric_part(Z), symmetric_part(G)
    finite = Z.isfinite().all(-1, True).all(-2, True)
    X = torch.where(finite, -symmetric_part(Z @ G @ Z), math.nan)
    return torch.where(is_infinite(Z), 0, X)


def _change(Z: Tensor, G: Tensor, direction: Tensor) -> Tensor:
    """-(dZ sym(G) Z + Z sym(G) dZ), self-adjoint in the direction; 0 where Z is the inverse of zero."""
    Z, G, direction = (symmetric_part(x) for x in (Z, G, direction))
    K = direction @ Z @ G
    return torch.where(is_infinite(Z), 0, -(K + K.mT))


def _inv_backward_vjp(Z: Tensor, G: Tensor, _: tuple, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    return _change(Z, G, cotangent), call("inv_backward", Z, cotangent)


def _inv_backward_jvp(Z: Tensor, G: Tensor, _: tuple, dZ: Tensor, dG: Tensor) -> Tensor:
    K = symmetric_part(dZ) @ symmetric_part(G) @ symmetric_part(Z)
    return torch.where(is_infinite(Z), 0, -(K + K.mT)) + call("inv_backward", Z, dG)


inv_backward.rule = Rule(lambda Z, G, X: (Z, G), _inv_backward_vjp, _inv_backward_jvp)
