"""Distances between distributions by their means and covariances: Frechet and Bures, on what `gaussians` computes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import gaussians
from ._ops import check as _check
from ._ops.hermitian import embedded
from ._ops.table import DTYPES, PUBLIC_DTYPES, Matrix


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Compute the squared Frechet distance of Gaussians from their means and covariances: FID, of Inception features.

    That is ||m1 - m2||^2 + tr C1 + tr C2 - 2 tr (C1^(1/2) C2 C1^(1/2))^(1/2), the squared 2-Wasserstein distance.

    Args:
        mean1: (..., d), float16, bfloat16, float32 or float64; computed in float64.
        cov1: (..., d, d), positive semidefinite, of any rank; its symmetric part is used. Of an indefinite matrix, such
            as a singular one after rounding, the nearest positive semidefinite matrix counts: eigenvalues up to four
            times the most negative are rounding and count as zero.
        mean2: As `mean1`. Leading dimensions broadcast.
        cov2: As `cov1`.

    Returns:
        (...), at least 0, float64 if an argument is, otherwise float32. For covariances accurate to their rounding, so
        are its digits: to 1e-12 of the traces in float64, also where samples are fewer than features. Near 0 it is
        taken from a difference of factors and has no cancellation. NaN and Inf give NaN, in that element alone.

    Gradient:
        2 (m1 - m2), and I - T with the optimal map T from C1 to C2: T C1 T = C2. Differentiable to second order; at
        singular covariances finite, and exact in what moves with the samples.

    Cost:
        A Cholesky factor, a congruence and eigenvalues, 3 d^3 flop; for a gradient or an ill-conditioned pair two
        factorisations and eigenvectors, about 15 d^3. Covariances of rank k < d need 2 d k^2 and O(k^3). Matrices
        beyond d = 64 are taken one after the other.

    Raises:
        RuntimeError: Sizes do not fit, a dtype or layout is another one, or a third derivative is asked for.

    Source:
        Dowson and Landau, J. Multivariate Analysis 12, 1982; Heusel et al., NeurIPS 2017.

    Example:
        >>> mean, cov = torch.zeros(3), torch.diag(torch.tensor([1.0, 4.0, 9.0]))
        >>> fastsqrtm.metrics.frechet_distance(mean, cov, mean + 1, 4 * cov)  # 3 + (1 + 4 + 9)
        tensor(17.)
    """
    function = "frechet_distance"
    for name, mean in (("mean1", mean1), ("mean2", mean2)):
        _floating(function, name, mean, 1, "(..., d)")
    d = mean1.shape[-1]
    for name, cov in (("cov1", cov1), ("cov2", cov2)):
        _matrix(function, name, cov)
        if cov.shape[-1] != d:
            _check.fail(
                function, f"{name} must be (..., {d}, {d}) where mean1 is {tuple(mean1.shape)}", tuple(cov.shape)
            )
    if mean2.shape[-1] != d:
        _check.fail(function, f"mean2 must be (..., {d}) where mean1 is {tuple(mean1.shape)}", tuple(mean2.shape))
    batch = _batch(function, mean1.shape[:-1], cov1.shape[:-2], mean2.shape[:-1], cov2.shape[:-2])
    difference = mean1.double() - mean2.double()
    A, B = (cov.double().expand(*batch, d, d) for cov in (cov1, cov2))
    bures = _where_finite(lambda A, B: gaussians.bures(function, A, B), A, B)
    return (difference.square().sum(-1) + bures).to(_result_dtype(mean1, cov1, mean2, cov2))


def frechet_distance_of_samples(x: Tensor, y: Tensor) -> Tensor:
    """Compute the squared Frechet distance of two sets of samples, without a d x d matrix where samples are few.

    Args:
        x: (..., n, d), n >= 2 samples, float16, bfloat16, float32 or float64; computed in float64.
        y: (..., m, d), m >= 2 samples. Leading dimensions broadcast.

    Returns:
        (...), `frechet_distance` of the means and of the covariances over n - 1 and m - 1: float64 if an argument is,
        otherwise float32. Accurate to the rounding of float64, whatever n, m and d are. NaN and Inf as there.

    Gradient:
        To the samples, without any inverse: of the centred samples X / sqrt(n - 1), 2 (X - Q Y) with the orthogonal Q
        nearest to X Y^T. Differentiable to second order.

    Cost:
        With n or m below d: 2 n m d flop, O(k^3) for the smaller k of n and m, and workspace for n m elements.
        Otherwise 2 (n + m) d^2 flop for the covariances, and `frechet_distance`.

    Raises:
        RuntimeError: Sizes do not fit, there is a single sample, or a dtype or layout is another one.

    Source:
        The trace of a root is the sum of the singular values of X Y^T: Mathiasen and Hvilshøj, arXiv:2009.14075.

    Example:
        >>> x = torch.randn(10, 512, generator=torch.Generator().manual_seed(0))
        >>> distance = fastsqrtm.metrics.frechet_distance_of_samples(x, 2 * x + 1)
        >>> expected = (x.mean(0) + 1).square().sum() + x.var(0).sum()
        >>> torch.allclose(distance, expected)
        True
    """
    function = "frechet_distance_of_samples"
    for name, samples in (("x", x), ("y", y)):
        _floating(function, name, samples, 2, "(..., n, d)")
        if samples.shape[-2] < 2:
            _check.fail(function, f"{name} must have at least 2 samples", tuple(samples.shape))
    if y.shape[-1] != x.shape[-1]:
        _check.fail(function, f"y must be (..., m, {x.shape[-1]}) where x is {tuple(x.shape)}", tuple(y.shape))
    batch = _batch(function, x.shape[:-2], y.shape[:-2])
    dtype, d = _result_dtype(x, y), x.shape[-1]
    X, Y = (samples.double().expand(*batch, *samples.shape[-2:]) for samples in (x, y))
    difference = X.mean(-2) - Y.mean(-2)

    def distance(X: Tensor, Y: Tensor) -> Tensor:
        F1, F2 = _contrasts(X), _contrasts(Y)
        if min(F1.shape[-2], F2.shape[-2]) < d:
            return gaussians.bures_of_factors(function, F1.mT, F2.mT)
        return gaussians.bures(function, F1.mT @ F1, F2.mT @ F2)

    return (difference.square().sum(-1) + _where_finite(distance, X, Y)).to(dtype)


def bures_distance(A: Tensor, B: Tensor) -> Tensor:
    """Compute the Bures distance of positive semidefinite matrices: the 2-Wasserstein distance of centred Gaussians.

    Args:
        A: (..., n, n), float16, bfloat16, float32 or float64; computed in float64, as `cov1` of `frechet_distance`. Or
            complex64 or complex128, of which the Hermitian part is used, such as density matrices.
        B: As A. Leading dimensions broadcast.

    Returns:
        (tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2))^(1/2), (...), not squared, at least 0; float64 if an argument is
        or is complex128, otherwise float32. It is accurate near 0 as well.

    Gradient:
        (I - T) / (2 distance) with T A T = B; 0 where the distance is rounding, as for A = B, where it has none.
        Differentiable to second order.

    Cost:
        As `frechet_distance`.

    Raises:
        RuntimeError: As `frechet_distance`.

    Source:
        Bhatia, Jain and Lim, Expositiones Mathematicae 37, 2019.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 4.0]))
        >>> fastsqrtm.metrics.bures_distance(A, 9 * A)  # (2^2 + 4^2)^(1/2)
        tensor(4.4721)
    """
    function = "bures_distance"
    _matrix(function, "A", A, PUBLIC_DTYPES)
    _matrix(function, "B", B, PUBLIC_DTYPES)
    if A.shape[-1] != B.shape[-1]:
        _check.fail(function, f"B must have the size of A {tuple(A.shape)}", tuple(B.shape))
    batch = _batch(function, A.shape[:-2], B.shape[:-2])
    if A.is_complex() or B.is_complex():  # of the real matrices the square is twice that of the complex ones
        dtype = torch.promote_types(A.dtype, B.dtype)
        A, B, copies = embedded(A.to(dtype)), embedded(B.to(dtype)), 2
    else:
        copies = 1
    n = A.shape[-1]
    wide_A, wide_B = (C.double().expand(*batch, n, n) / copies for C in (A, B))
    squared = _where_finite(lambda A, B: gaussians.bures(function, A, B), wide_A, wide_B)
    traces = (wide_A.diagonal(dim1=-2, dim2=-1).sum(-1) + wide_B.diagonal(dim1=-2, dim2=-1).sum(-1)).detach()
    apart = ~(squared <= (8 * n * gaussians.EPS) ** 2 * traces.abs())  # NaN is no rounding
    distance = torch.where(apart, squared, 1).sqrt()
    return torch.where(apart, distance, squared.detach().sqrt()).to(_result_dtype(A, B))


class _Moments(NamedTuple):
    """Of samples: their number, their mean, and the sum of the outer products of their deviations from it."""

    number: Tensor  # ()
    mean: Tensor  # (d,)
    scatter: Tensor  # (d, d)


class FrechetDistance(nn.Module):
    """Accumulate two sets of samples batch by batch, and give their squared Frechet distance: FID, given such features.

    The calls are those of torchmetrics' FrechetInceptionDistance: `update(x, real=...)`, `compute()`, `reset()`.

    Args:
        feature: What computes the features (n, d) of a batch, such as a network; it is called without gradient, in the
            mode that it is in. None takes the batches as features.
        reset_real_features: Whether `reset` forgets the real samples as well.
        sync: Whether `compute` takes the samples of all processes of torch.distributed, if there are any; every one
            must then call it, and gets the same result.
        process_group: Those processes; None stands for all.

    Returns:
        `update` and a call of the module return nothing; `compute` gives (), float64. The moments are buffers: they
        are in the state_dict, move with `.to(device)`, and stay float64 whatever dtype the module is given.

    Gradient:
        None; `frechet_distance_of_samples` has one.

    Cost:
        2 n d^2 flop for n samples, in float64; two d x d matrices. `compute` as `frechet_distance`.

    Raises:
        RuntimeError: Features are not (n, d) with one d for all, or a set has fewer than two samples at `compute`.

    Source:
        Chan, Golub and LeVeque, The American Statistician 37(3), 1983, for the means that move with each batch.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> real, fake = torch.randn(100, 8, generator=generator), torch.randn(60, 8, generator=generator) + 1
        >>> metric = fastsqrtm.metrics.FrechetDistance()
        >>> for batch in real.split(32):
        ...     metric.update(batch, real=True)
        >>> metric.update(fake, real=False)
        >>> torch.allclose(metric.compute().float(), fastsqrtm.metrics.frechet_distance_of_samples(real, fake))
        True
    """

    def __init__(
        self,
        feature: Callable[[Tensor], Tensor] | None = None,
        *,
        reset_real_features: bool = True,
        sync: bool = True,
        process_group: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(feature, int):
            _check.fail("FrechetDistance", "feature must be a function or module: weights are the caller's", feature)
        self.feature = feature
        self.reset_real_features = reset_real_features
        self.sync = sync
        self.process_group = process_group
        for kind in ("real", "fake"):
            self.register_buffer(f"{kind}_number", torch.zeros((), dtype=torch.int64))
            self.register_buffer(f"{kind}_mean", torch.zeros(0, dtype=torch.float64))
            self.register_buffer(f"{kind}_scatter", torch.zeros(0, 0, dtype=torch.float64))

    def forward(self, x: Tensor, real: bool) -> None:
        self.update(x, real)

    @torch.no_grad()
    def update(self, x: Tensor, real: bool) -> None:
        """Add the features of a batch to the real or to the other samples."""
        features = x if self.feature is None else self.feature(x)
        features = features[None] if features.dim() == 1 else features
        if features.dim() != 2 or not features.is_floating_point():
            got = f"{str(features.dtype).removeprefix('torch.')} {tuple(features.shape)}"
            _check.fail("FrechetDistance.update", "features must be floating-point (n, d)", got)
        features = features.double()
        count = torch.tensor(len(features), device=features.device)
        mean = features.sum(0) / max(len(features), 1)
        centred = features - mean
        self._add("real" if real else "fake", _Moments(count, mean, centred.mT @ centred))

    def compute(self) -> Tensor:
        """The squared Frechet distance of all samples so far; it may be called again after more."""
        moments = []
        for kind in ("real", "fake"):
            found = self._all_processes(self._moments(kind)) if self._distributed() else self._moments(kind)
            if found.number < 2:
                _check.fail("FrechetDistance.compute", f"at least 2 {kind} samples are needed", int(found.number))
            moments += [found.mean, found.scatter / (found.number - 1)]
        mean1, cov1, mean2, cov2 = moments
        if mean1.shape != mean2.shape:
            _check.fail("FrechetDistance.compute", f"fake samples must have {len(mean1)} features", len(mean2))
        return frechet_distance(mean1, cov1, mean2, cov2)

    def merge(self, *others: "FrechetDistance") -> None:
        """Add the samples of other accumulators, such as those of other workers."""
        for other in others:
            for kind in ("real", "fake"):
                self._add(kind, other._moments(kind))

    def reset(self) -> None:
        """Forget the samples; with reset_real_features=False the real ones are kept."""
        for kind in ("real", "fake") if self.reset_real_features else ("fake",):
            count, mean, scatter = self._moments(kind)
            self._set(kind, _Moments(torch.zeros_like(count), mean.new_zeros(0), scatter.new_zeros(0, 0)))

    def extra_repr(self) -> str:
        return f"real_count={int(self.real_number)}, fake_count={int(self.fake_number)}"  # type: ignore[arg-type]

    def _moments(self, kind: str) -> _Moments:
        return _Moments(*(getattr(self, f"{kind}_{name}") for name in _Moments._fields))

    def _set(self, kind: str, moments: _Moments) -> None:
        for name, value in zip(_Moments._fields, moments, strict=True):
            setattr(self, f"{kind}_{name}", value)

    def _add(self, kind: str, more: _Moments) -> None:
        """Chan's formula."""
        old = self._moments(kind)
        more = _Moments(*(x.to(old.mean.device if old.number else x.device) for x in more))
        if not old.number:
            self._set(kind, more)
        elif more.number:
            if more.mean.shape != old.mean.shape:
                got = len(more.mean)
                _check.fail("FrechetDistance.update", f"{kind} samples must have {len(old.mean)} features", got)
            count = old.number + more.number
            step = more.mean - old.mean
            share = more.number.double() / count
            scatter = old.scatter + more.scatter + old.number * share * torch.outer(step, step)
            self._set(kind, _Moments(count, old.mean + share * step, scatter))

    def _distributed(self) -> bool:
        distributed = torch.distributed
        return self.sync and distributed.is_available() and distributed.is_initialized()

    def _all_processes(self, own: _Moments) -> _Moments:
        """The moments of the samples of all processes; one without samples takes part as well."""
        reduce = torch.distributed.all_reduce
        size = torch.tensor(len(own.mean), device=own.mean.device)
        reduce(size, torch.distributed.ReduceOp.MAX, self.process_group)
        if len(own.mean) not in (0, int(size)):
            _check.fail("FrechetDistance.compute", f"all processes must have {int(size)} features", len(own.mean))
        count, total = own.number.clone(), own.mean.new_zeros(int(size))
        if own.number:
            total += own.number * own.mean
        reduce(count, group=self.process_group)
        reduce(total, group=self.process_group)
        mean = total / count.clamp(min=1)
        scatter = own.mean.new_zeros(int(size), int(size))
        if own.number:
            step = own.mean - mean
            scatter += own.scatter + own.number * torch.outer(step, step)
        reduce(scatter, group=self.process_group)
        return _Moments(count, mean, scatter)

    def _apply(self, fn: Any, recurse: bool = True) -> "FrechetDistance":
        """Moves the moments with the module, but keeps them in float64."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, moved in dict(self.named_buffers(recurse=False)).items():
            setattr(self, name, before[name].to(moved.device))
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for name, buffer in dict(self.named_buffers(recurse=False)).items():
            loaded = state_dict.get(prefix + name)
            if loaded is not None:
                setattr(self, name, buffer.new_empty(loaded.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _floating(function: str, name: str, x: Any, dimensions: int, expected: str) -> None:
    _check.strided(function, name, x)
    if x.dtype not in DTYPES:
        got = str(x.dtype).removeprefix("torch.")
        _check.fail(function, f"{name} must be float16, bfloat16, float32 or float64", got)
    if x.dim() < dimensions:
        _check.fail(function, f"{name} must be {expected}", tuple(x.shape))


def _matrix(function: str, name: str, C: Any, dtypes: tuple[torch.dtype, ...] = DTYPES) -> None:
    _check.first(function, Matrix(name, "nn", dtypes=dtypes), C)


def _batch(function: str, *shapes: torch.Size) -> torch.Size:
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        _check.fail(function, "leading dimensions must broadcast", ", ".join(str(tuple(shape)) for shape in shapes))


def _result_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def _where_finite(function: Callable[[Tensor, Tensor], Tensor], A: Tensor, B: Tensor) -> Tensor:
    """function(A, B) of (..., n, d) and (..., m, d), NaN where one has NaN or Inf: decompositions would raise."""
    if A.shape[:-2].numel() == 0:
        return A.new_zeros(A.shape[:-2])
    if not gaussians.transforming() and (A.detach().sum() + B.detach().sum()).isfinite():  # a tenth of the time
        return function(A, B)
    finite = A.isfinite().all(-1).all(-1) & B.isfinite().all(-1).all(-1)
    A, B = (torch.where(finite[..., None, None], C, 0) for C in (A, B))
    return torch.where(finite, function(A, B), torch.nan)


def _contrasts(X: Tensor) -> Tensor:
    """n - 1 rows of the samples (..., n, d) with their covariance for a Gram matrix: the centred samples but for the
    direction in which centring leaves zero, taken out by a reflection.
    """
    n = X.shape[-2]
    X = (X - X.mean(-2, keepdim=True)) / (n - 1) ** 0.5
    return X[..., 1:, :] + X[..., :1, :] / (n**0.5 - 1)
