"""Fidelity and Bures distance of density matrices, with gradients: checked against closed forms, then used as a loss.

    python examples/density_matrices.py

A density matrix is complex Hermitian, positive semidefinite and of trace 1. The fidelity of two is
(tr (rho^(1/2) sigma rho^(1/2))^(1/2))^2, and their squared Bures distance is 2 - 2 times its root.
"""

import math

import torch
from torch import Tensor

from fastsqrtm.metrics import bures_distance


def fidelity(rho: Tensor, sigma: Tensor) -> Tensor:
    """From 0 to 1, at any rank: of pure states |<psi, phi>|^2."""
    return (1 - bures_distance(rho, sigma).square() / 2).square()


def pure(psi: Tensor) -> Tensor:
    """The density matrix of a state vector."""
    psi = psi / torch.linalg.vector_norm(psi)
    return torch.outer(psi, psi.conj())


def random_state(n: int, rank: int, seed: int) -> Tensor:
    """A density matrix of given rank, by a random purification."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(n, rank, generator=generator, dtype=torch.complex128)
    rho = samples @ samples.mH
    return rho / rho.trace().real


def pure_states(angle: float) -> tuple[float, float]:
    """The errors of the fidelity of two pure states, cos^2, and of its derivative to the angle between them."""
    theta = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
    up = torch.tensor([1, 0], dtype=torch.complex128)
    turned = torch.stack((theta.cos() + 0j, 1j * theta.sin()))
    found = fidelity(pure(up), pure(turned))
    (slope,) = torch.autograd.grad(found, theta)
    return abs(found.item() - math.cos(angle) ** 2), abs(slope.item() + math.sin(2 * angle))


def commuting_states(n: int) -> tuple[float, float]:
    """The errors for U diag(p) U^H and U diag(q) U^H, (sum (p q)^(1/2))^2, and of the derivative to p."""
    generator = torch.Generator().manual_seed(n)
    p, q = (torch.rand(n, generator=generator, dtype=torch.float64).softmax(0) for _ in range(2))
    U = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.complex128)).Q
    p.requires_grad_()
    # Of matrices of any trace: ((tr rho + tr sigma - d^2) / 2)^2.
    total = p.sum() + q.sum()
    found = ((total - bures_distance(U * p @ U.mH, U * q @ U.mH).square()) / 2).square()
    (slope,) = torch.autograd.grad(found, p)
    overlap = (p * q).sqrt().sum().item()
    return abs(found.item() - overlap**2), (slope - overlap * (q / p).sqrt()).abs().max().item()


def nearest_of_rank(rho: Tensor, rank: int, steps: int = 150) -> float:
    """The largest fidelity with rho that a state of a lower rank has, by gradient ascent over its purification."""
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(len(rho), rank, generator=generator, dtype=torch.complex128).requires_grad_()
    optimizer = torch.optim.Adam([samples], lr=0.05)
    for _ in range(steps):
        sigma = samples @ samples.mH
        loss = -fidelity(rho, sigma / sigma.trace().real)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return -loss.item()


def main() -> None:
    print("pure states:      errors of fidelity {:.0e} and derivative {:.0e}".format(*pure_states(0.7)))
    print("commuting states: errors of fidelity {:.0e} and derivative {:.0e}".format(*commuting_states(6)))
    rho = random_state(4, 4, seed=0)
    largest = torch.linalg.eigvalsh(rho)[-2:].sum().item()  # the best state of rank 2 keeps the two largest weights
    print(f"nearest state of rank 2: fidelity {nearest_of_rank(rho, 2):.6f}, the best there is {largest:.6f}")


if __name__ == "__main__":
    main()
