"""The conclusions of the paper, each as a check of the record: whether it holds here, by which numbers, and why."""

from collections.abc import Callable
from typing import NamedTuple

from bench.paper.training import EPSILONS

CLEAR = 1.05  # a smaller ratio of times counts as equal


class Claim(NamedTuple):
    where: str
    text: str
    check: Callable[[dict], tuple[bool, str]]  # record -> holds, the numbers
    why: str


def converged(record: dict, system: str) -> list[bool]:
    """Whether the loss went down, for each run at the smallest eps."""
    runs = [r for r in record["training"] if r["system"] == system and r["eps"] == min(EPSILONS)]
    return [r["final_loss"] < r["losses"][0] / 2 for r in runs]


def _point(rows: list[dict], key: str, method: str, **setting) -> float:
    (row,) = (r for r in rows if r["method"] == method and all(r[k] == v for k, v in setting.items()))
    return row[key]


def _degree_sweep(record: dict) -> tuple[bool, str]:
    rows = record["degree_sweep"]
    mpa, ns = (_point(rows, "error", m, setting=5) for m in ("MPA", "NS"))
    time = _point(rows, "ms", "MPA", setting=5), _point(rows, "ms", "NS", setting=5)
    return mpa < ns and time[0] < time[
        1
    ], f"error {mpa:.1e} against {ns:.1e}, {time[0]:.2f} ms against {time[1]:.2f} ms"


def _mtp_is_fastest(record: dict) -> tuple[bool, str]:
    rows = record["degree_sweep"]
    mtp, mpa = _point(rows, "ms", "MTP", setting=10), _point(rows, "ms", "MPA", setting=5)
    return CLEAR * mtp < mpa, f"MTP, degree 10: {mtp:.2f} ms, MPA, degree 5: {mpa:.2f} ms"


def _backward_sweep(record: dict) -> tuple[bool, str]:
    rows = record["backward_sweep"]
    lyapunov, ns = _point(rows, "ms", "Lyapunov", iterations=8), _point(rows, "ms", "NS", iterations=5)
    return CLEAR * lyapunov < ns, f"Lyapunov, 8 iterations: {lyapunov:.2f} ms, NS, 5: {ns:.2f} ms"


def _batches(record: dict) -> tuple[bool, str]:
    rows = record["batch_sweep"]
    worst_ns = min(r["ms"]["NS"] / r["ms"]["MPA-Lya"] for r in rows)
    worst_svd = min(r["ms"]["SVD-Pade"] / r["ms"]["MPA-Lya"] for r in rows)
    return min(worst_ns, worst_svd) > CLEAR, f"least ratio to MPA-Lya: NS {worst_ns:.2f}, SVD-Pade {worst_svd:.2f}"


def _errors_by_size(record: dict) -> tuple[bool, str]:
    rows = record["size_sweep"]
    ratios = [r["error"]["NS"] / r["error"]["MPA-Lya"] for r in rows]
    return min(ratios) > 1, f"NS has {min(ratios):.2f} to {max(ratios):.1f} times the error of MPA"


def _pooling_against_svd(record: dict) -> tuple[bool, str]:
    ms = record["layers"]["pooling"]["ms"]
    ratio = ms["SVD-Pade"] / ms["MPA-Lya"]
    return ratio >= 25, f"{ratio:.1f} times"


def _pooling_against_ns(record: dict) -> tuple[bool, str]:
    ms = record["layers"]["pooling"]["ms"]
    ratio, slow = ms["NS"] / ms["MPA-Lya"], ms["NS, op by op"] / ms["MPA-Lya, op by op"]
    return ratio > CLEAR, f"{ratio:.2f} times; op by op {slow:.2f} times"


def _termination(record: dict) -> tuple[bool, str]:
    rows = record["backward_sweep"]
    nine, bs = _point(rows, "ms", "Lyapunov", iterations=9), _point(rows, "ms", "BS", iterations=0)
    return CLEAR * nine < bs, f"9 iterations {nine:.2f} ms, BS {bs:.2f} ms"


def _ns_lya(record: dict) -> tuple[bool, str]:
    printed, remedy = converged(record, "NS-Lya as printed"), converged(record, "NS-Lya (default)")
    evidence = (
        f"as printed {sum(printed)} of {len(printed)} runs converge, with the remedy {sum(remedy)} of {len(remedy)}"
    )
    return not any(printed), evidence


def _large(record: dict) -> tuple[bool, str]:
    rows = [r for r in record["size_sweep"] if r["n"] >= 256]
    ratios = [r["ms"]["NS"] / r["ms"]["MPA-Lya"] for r in rows]
    return min(ratios) > CLEAR, "NS / MPA-Lya at 256, 512, 1024: " + ", ".join(f"{r:.2f}" for r in ratios)


def _covariance_pooling(record: dict) -> tuple[bool, str]:
    ms = record["covariance_pooling"]["ms"]
    ratio, slow = ms["NS"] / ms["MPA-Lya"], ms["NS, op by op"] / ms["MPA-Lya, op by op"]
    return ratio > CLEAR, f"{ratio:.2f} times; op by op {slow:.2f} times"


CHEAP_ADJOINT = (
    "A step of Newton-Schulz is a polynomial of one symmetric matrix, so its adjoint is its derivative, which goes "
    "along with the iteration: 30 n^3 flop for 5 steps, where the adjoint as published takes 108 n^3 and 8 Lyapunov "
    "steps, with every saving, 46 n^3."
)
NS_FLOPS = (
    "Forward and backward, MPA-Lya takes 51 n^3 flop here and NS 40 n^3. The paper counts 104 n^3 and a solve against "
    "138 n^3."
)

CLAIMS = [
    Claim("Figure 1c", "MPA is more accurate than NS and faster", _degree_sweep,
          "The degree-5 approximant has relative error 2q/(1 - q), q = ((1 - sqrt x)/(1 + sqrt x))^11; NS needs more "
          "steps for small x. 5 n^3 flop against 10 n^3."),
    Claim("Figure 1c", "MTP takes the least time", _mtp_is_fastest,
          "Both take 5 n^3 flop here: five symmetric products, or five inverses by sweeps. Products run nearer to the "
          "peak of the machine."),
    Claim("Figure 1d, Table 2", "the Lyapunov solver is cheaper than the backward pass of NS", _backward_sweep,
          CHEAP_ADJOINT),
    Claim("Figure 2a", "MPA-Lya is faster than NS and the SVD at every batch size", _batches, NS_FLOPS),
    Claim("Figure 2c", "MPA approximates better than NS at every size", _errors_by_size,
          "The error depends on the eigenvalues of A/||A||_F, which shrink with n; MPA resolves smaller ones."),
    Claim("Table 4", "MPA-Lya is 25.6 times faster than SVD-Pade in covariance pooling", _pooling_against_svd,
          "The K40 solved the eigenproblems one after the other; LAPACK on a CPU takes a few tens of GEMM times for a "
          "48 x 48 matrix. What a GPU would give is not measured."),
    Claim("Table 4", "MPA-Lya is faster than NS in covariance pooling (3.2 times)", _pooling_against_ns,
          "The published NS loops over the batch in its backward pass. Batched, most of that advantage is gone; the "
          "rest at n = 48 is the cost of transposes and of blocks of 16, larger for the many symmetric products of "
          "NS. " + NS_FLOPS),
    Claim("Table 6", "nine Lyapunov iterations are faster than Bartels-Stewart", _termination,
          "Bartels-Stewart needs the eigendecomposition of the root."),
    Claim("Table 7", "NS-Lya does not converge", _ns_lya, "See below: root and gradient do not belong together."),
    Claim("Table 8", "MPA-Lya is faster than NS up to 1024", _large, NS_FLOPS),
    Claim("Table 9", "MPA-Lya is 1.5 times faster than NS at 256 x 256", _covariance_pooling, NS_FLOPS),
]  # fmt: skip
