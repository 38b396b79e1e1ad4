"""The numerical studies of the paper, each a function that returns rows of plain numbers."""

import functools
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastsqrtm
from bench import peers
from bench.paper.systems import OP_BY_OP, SYSTEMS, Root, covariances
from fastsqrtm.paper import Backward, root_gradient
from fastsqrtm.testing import exact_gradient, exact_sqrtm, relative_error, time_in_turn

sqrtm = fastsqrtm.paper.sqrtm


def forward(function: Root, A: Tensor) -> Callable[[], object]:
    return lambda: function(A)


def both(function: Root, A: Tensor, G: Tensor) -> Callable[[], object]:
    leaf = A.detach().requires_grad_()
    return lambda: torch.autograd.grad(function(leaf), leaf, G)


def milliseconds(contenders: dict, seconds: float) -> dict:
    return {name: 1e3 * median(times) for name, times in time_in_turn(contenders, seconds).items()}


def mean_absolute_error(root: Tensor, A: Tensor) -> float:
    """The error measure of the paper."""
    return (root.double() - exact_sqrtm(A)).abs().mean().item()


def gradient_error(function: Root, A: Tensor, G: Tensor) -> float:
    leaf = A.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf, G)
    return relative_error(gradient, exact_gradient(A, G)).mean().item()


def degree_sweep(seconds: float) -> list[dict]:
    """Figure 1c: error against forward time."""
    A, _ = covariances(64, 64)
    points = {("MTP", d): functools.partial(sqrtm, method="mtp", degree=d) for d in (6, 8, 10, 12, 14, 16, 18)}
    points |= {("MPA", d): functools.partial(sqrtm, method="mpa", degree=d) for d in (3, 4, 5, 6, 7, 8, 9)}
    points |= {("NS", k): functools.partial(sqrtm, method="ns", degree=k) for k in (3, 4, 5, 6, 7)}
    points |= {("sqrtm", 0): fastsqrtm.sqrtm, ("SVD", 0): functools.partial(sqrtm, method="eigh")}
    times = milliseconds({name: forward(f, A) for name, f in points.items()}, seconds)
    return [
        {"method": name[0], "setting": name[1], "ms": times[name], "error": mean_absolute_error(f(A), A)}
        for name, f in points.items()
    ]


def backward_sweep(seconds: float) -> list[dict]:
    """Figure 1d and Table 6: backward alone against iterations, at the root that MPA computes."""
    ops = torch.ops.fastsqrtm
    A, G = covariances(64, 64)
    S = sqrtm(A, method="mpa")
    points = {("Lyapunov", k): functools.partial(ops.sqrtm_lya_backward, A, S, G, k) for k in range(5, 10)}
    points |= {("NS", k): functools.partial(ops.ns_backward, A, G, k) for k in range(3, 8)}
    points |= {("BS", 0): functools.partial(root_gradient, A, S, G, Backward("bartels_stewart"))}
    points |= {("Newton", 0): functools.partial(ops.sqrtm_backward, S, G)}
    times = milliseconds(points, seconds)
    exact = root_gradient(A.double(), S.double(), G.double(), Backward("bartels_stewart"))
    rows = []
    for (method, k), f in points.items():
        rows.append({"method": method, "iterations": k, "ms": times[method, k]})
        if method != "NS":  # its gradient is of another map
            rows[-1]["error"] = relative_error(f(), exact).mean().item()
    return rows


SPEED = ["SVD-Pade", "NS", "MPA-Lya", "MTP-Lya"]


def batch_sweep(seconds: float) -> list[dict]:
    """Figure 2a: forward + backward against the batch size."""
    rows = []
    for batch in (1, 4, 16, 64, 256):
        A, G = covariances(batch, 64)
        times = milliseconds({name: both(SYSTEMS[name].root(), A, G) for name in SPEED}, seconds)
        rows.append({"batch": batch, "ms": times})
    return rows


def size_sweep(seconds: float) -> list[dict]:
    """Figures 2b, 2c and Table 8."""
    rows = []
    for n in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
        batch = 16 if n <= 128 else 1
        A, G = covariances(batch, n)
        names = SPEED if n <= 128 else SPEED[1:]
        rows.append(
            {
                "n": n,
                "batch": batch,
                "ms": milliseconds({name: both(SYSTEMS[name].root(), A, G) for name in names}, seconds),
                "error": {name: mean_absolute_error(SYSTEMS[name].root()(A), A) for name in SPEED[1:]},
            }
        )
    return rows


class CountProducts(TorchDispatchMode):
    """Counts the products and solves of square matrices that run inside it."""

    def __init__(self):
        super().__init__()
        self.products = self.solves = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1]
        self.products += name in ("mm", "bmm", "baddbmm", "addmm")
        self.solves += name.startswith(("linalg_solve", "_linalg_solve"))
        return function(*args, **(kwargs or {}))


def operation_counts(seconds: float) -> list[dict]:
    """Table 2: the calls of torch, counted, and the time of our kernels in products of torch's batched GEMM."""
    A, G = covariances(8, 256)
    formulas = {
        "MTP-Lya": ("K - 1 = 9 products", "6 x 8 = 48 products"),
        "MPA-Lya": ("(K - 1)/2 = 4 products, 1 solve", "6 x 8 = 48 products"),
        "NS": ("3 x 5 = 15 products", "4 + 10 x 5 = 54 products"),
        "NS, autograd": ("", ""),
    }
    rows = []
    for name, function in OP_BY_OP.items():
        leaf = A.detach().requires_grad_()
        with CountProducts() as first:
            root = function(leaf)
        with CountProducts() as second:
            torch.autograd.grad(root, leaf, G)
        system = SYSTEMS[name.split(",")[0]].root()
        times = milliseconds(
            {"forward": forward(system, A), "both": both(system, A, G), "gemm": lambda: torch.bmm(A, A)}, seconds
        )
        rows.append(
            {
                "method": name,
                "paper": formulas[name],
                "counted": [[c.products, c.solves] for c in (first, second)],
                "gemms_of_ours": [
                    times["forward"] / times["gemm"],
                    (times["both"] - times["forward"]) / times["gemm"],
                ],
            }
        )
    return rows


LAYERS = {
    "whitening": (1, 64, 32768, ["SVD-BS", "SVD-Lya", "NS-Lya"]),  # the first layer of ResNet, 32 images 32 x 32
    "pooling": (64, 48, 196, []),  # So-ViT, 14 x 14 tokens
}  # batch, n, samples, and the systems in addition to those of both tables


def layer(application: str, root: Root, x: Tensor) -> Tensor:
    """Covariance pooling, or whitening by a solve with the root, as the paper does it."""
    z = x - x.mean(-1, keepdim=True)
    A = z @ z.mT / x.shape[-1] + 1e-3 * torch.eye(x.shape[-2])
    return root(A) if application == "pooling" else torch.linalg.solve(root(A), z)


def layers(seconds: float) -> dict[str, dict]:
    """Tables 3, 4 and 7: forward + backward at the shapes of the two applications, of the root and of the whole layer,
    and gradient errors.
    """
    result = {}
    for application, (batch, n, samples, names) in LAYERS.items():
        A, G = covariances(batch, n)
        names = [*names, "PI", "SVD-PI", "SVD-Taylor", "SVD-Pade", "NS", "NS-Lya as printed", "MPA-Lya", "MTP-Lya"]
        roots = {name: SYSTEMS[name].root(application) for name in names}
        contenders = {name: both(root, A, G) for name, root in roots.items()}
        contenders |= {f"{name}, op by op": both(root, A, G) for name, root in OP_BY_OP.items()}
        contenders["sqrtm"] = both(fastsqrtm.sqrtm, A, G)
        roots["sqrtm"] = fastsqrtm.sqrtm
        x = torch.randn(batch, n, samples, generator=torch.Generator().manual_seed(2)).requires_grad_()
        cotangent = torch.ones_like(x) if application == "whitening" else G
        whole = {
            name: lambda root=root: torch.autograd.grad(layer(application, root, x), x, cotangent)  # noqa: B023
            for name, root in roots.items()
            if not (application == "whitening" and name == "PI")  # its root is singular
        }
        result[application] = {
            "batch": batch,
            "n": n,
            "samples": samples,
            "ms": milliseconds(contenders, seconds),
            "layer_ms": milliseconds(whole, seconds),
            "gradient_error": {name: gradient_error(root, A, G) for name, root in roots.items()},
        }
    return result


def newton_schulz(seconds: float) -> list[dict]:
    """Our Newton-Schulz against the same iteration op by op, with its adjoint written out and by autograd."""
    rows = []
    for batch, n in ((256, 16), (256, 32), (64, 48), (64, 64), (256, 64), (64, 128), (16, 256), (8, 512)):
        A, G = covariances(batch, n)
        contenders = {"ours": SYSTEMS["NS"].root(), **{k: f for k, f in OP_BY_OP.items() if k.startswith("NS")}}
        times = time_in_turn(
            {"gemm": lambda A=A: torch.bmm(A, A)} | {k: both(f, A, G) for k, f in contenders.items()}, seconds
        )
        rows.append(
            {
                "batch": batch,
                "n": n,
                "ms": {name: 1e3 * median(t) for name, t in times.items()},
                "ratio": {
                    name: median(t / ours for t, ours in zip(times[name], times["ours"], strict=True))
                    for name in contenders
                    if name != "ours"
                },
            }
        )
    return rows


def degrees(seconds: float) -> list[dict]:
    """Table 5: MPA by degree, forward."""
    A, _ = covariances(1, 64)
    functions = {d: functools.partial(sqrtm, method="mpa", degree=d) for d in (3, 4, 5, 6)}
    slow = {d: functools.partial(peers.mpa_lya, degree=d) for d in functions}
    times = milliseconds({d: forward(f, A) for d, f in functions.items()}, seconds)
    slow_times = milliseconds({d: forward(f, A) for d, f in slow.items()}, seconds)
    return [
        {"degree": d, "ms": times[d], "op_by_op_ms": slow_times[d], "error": mean_absolute_error(f(A), A)}
        for d, f in functions.items()
    ]


def covariance_pooling(seconds: float) -> dict:
    """Table 9: 256 x 256 covariances."""
    batch = 32
    A, G = covariances(batch, 256)
    contenders = {name: both(SYSTEMS[name].root("pooling"), A, G) for name in ("MPA-Lya", "NS")}
    contenders |= {f"{name}, op by op": both(OP_BY_OP[name], A, G) for name in ("MPA-Lya", "NS")}
    contenders["sqrtm"] = both(fastsqrtm.sqrtm, A, G)
    return {"batch": batch, "n": 256, "ms": milliseconds(contenders, seconds)}


STUDIES = {
    "degree_sweep": degree_sweep,
    "backward_sweep": backward_sweep,
    "batch_sweep": batch_sweep,
    "size_sweep": size_sweep,
    "operation_counts": operation_counts,
    "layers": layers,
    "newton_schulz": newton_schulz,
    "degrees": degrees,
    "covariance_pooling": covariance_pooling,
}
