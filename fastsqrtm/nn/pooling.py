"""Second-order pooling: the covariance of the features of each sample, its square root, and a head made of them."""

from typing import Any

import torch
from torch import Tensor, nn

from .. import paper, roots, statistics
from .._ops import check as _check
from .._ops.route import without_autocast

_NORMALIZE = ("sqrt", "none", "signed_sqrt")
_VECTOR = ("triu", "full", None)


class CovariancePool(nn.Module):
    """Describe each sample by the square root of the covariance of its features, in the place of average pooling.

    Args:
        in_channels: The number of channels of the input.
        reduce: Project the channels to this many first, by a convolution of width 1, batch norm and ReLU.
        normalize: "sqrt" takes the square root of the covariance, which tames its large eigenvalues; "none" keeps the
            covariance; "signed_sqrt" takes the root of each entry, with its sign.
        vector: "triu" returns the upper triangle with the diagonal, row by row; "full" all entries; None the matrix.
        centered: Subtract the mean over the positions. Without it the second moment is pooled.
        eps: Added to the diagonal of the covariance before its root. The gradient is at most (4 eps)^(-1/2) times the
            cotangent; features without variance need it.
        shrinkage: As for `fastsqrtm.statistics.shrink`, before the root.
        scale_off_diagonal: Multiply the entries off the diagonal by sqrt(2) in the triangle, which then has the
            Frobenius norm of the matrix.
        channel_dim: 1 for (N, C, ...), -1 for tokens (N, L, C).
        method, backward, rtol, degree, iterations: "auto" computes the exact root to `rtol`. "mpncov" is the one of
            the fast MPN-COV network: `degree` Newton-Schulz steps on the covariance over its trace. Others are those of
            `fastsqrtm.paper.sqrtm`.

    Returns:
        (N, out_features), or (N, d, d) for `vector=None`, with d = `reduce` or `in_channels`, in the dtype of the
        input. The root is computed in float32 or wider, under autocast as well.

    Gradient:
        Exact, to any order for "auto".

    Cost:
        2 L d^2 flop forward and 4 backward for each sample of L positions, and a root: 6 d^3 and up to 18 d^3.

    Raises:
        RuntimeError: The input has other channels or no floating dtype; an argument is out of range.

    Source:
        Li, Xie, Wang and Zuo, *Is Second-order Information Helpful for Large-scale Visual Recognition?*, ICCV 2017.

    Example:
        >>> pool = fastsqrtm.nn.CovariancePool(48)
        >>> pool(torch.randn(4, 48, 14, 14)).shape, pool.out_features
        (torch.Size([4, 1176]), 1176)
        >>> matrices = fastsqrtm.nn.CovariancePool(48, vector=None, channel_dim=-1)
        >>> matrices(torch.randn(4, 196, 48)).shape  # tokens
        torch.Size([4, 48, 48])
    """

    upper: Tensor

    def __init__(
        self,
        in_channels: int,
        reduce: int | None = None,
        *,
        normalize: str = "sqrt",
        vector: str | None = "triu",
        centered: bool = True,
        eps: float = 1e-5,
        shrinkage: float = 0.0,
        scale_off_diagonal: bool = False,
        channel_dim: int = 1,
        method: str = "auto",
        backward: str = "auto",
        rtol: float | None = None,
        degree: int | None = None,
        iterations: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("reduce", reduce)):
            if value is not None:
                _check.kind("nn.CovariancePool", name, value, whole=True)
                if value < 1:
                    _check.fail("nn.CovariancePool", f"{name} must be positive", value)
        for name, text, choices in (("normalize", normalize, _NORMALIZE), ("vector", vector, _VECTOR)):
            if text not in choices:
                expected = f"{name} must be one of {', '.join(map(repr, choices))}"
                _check.fail("nn.CovariancePool", expected, repr(text))
        if method != "auto" and rtol is not None:
            _check.fail("nn.CovariancePool", 'rtol needs method="auto"', repr(method))
        statistics.checked_ridge("nn.CovariancePool", shrinkage, eps)
        self.in_channels, self.reduce, self.normalize, self.vector = in_channels, reduce, normalize, vector
        self.centered, self.eps, self.shrinkage, self.channel_dim = centered, eps, shrinkage, channel_dim
        self.scale_off_diagonal = scale_off_diagonal
        self.method, self.backward, self.rtol, self.degree, self.iterations = method, backward, rtol, degree, iterations
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.reduction = None
        if reduce is not None:
            convolution = nn.Conv1d(in_channels, reduce, 1, bias=False, **factory)
            self.reduction = nn.Sequential(convolution, nn.BatchNorm1d(reduce, **factory), nn.ReLU())
        d = in_channels if reduce is None else reduce
        self.out_features = d * (d + 1) // 2 if vector == "triu" else d * d
        upper = torch.triu_indices(d, d, device=device)
        self.register_buffer("upper", upper[0] * d + upper[1], persistent=False)
        self._root(torch.eye(1)[None])  # wrong methods and numbers raise here

    @classmethod
    def mpncov(cls, in_channels: int = 2048, reduce: int | None = None, steps: int = 3, **options: Any) -> Any:
        """Make the layer of the fast MPN-COV networks, which gives what theirs gives with the same weights.

        Args:
            in_channels, reduce, steps: Theirs: input_dim, dimension_reduction and iterNum.
            options: Other keywords of `CovariancePool`.

        Returns:
            A `CovariancePool` of (N, out_features), where theirs is (N, out_features, 1). It loads the entries
            conv_dr_block.* of their state_dict. With one step it gives the root that their later version gives.

        Example:
            >>> fastsqrtm.nn.CovariancePool.mpncov(64, 32, steps=5)(torch.randn(2, 64, 7, 7)).shape
            torch.Size([2, 528])
        """
        return cls(in_channels, reduce, **{"eps": 0.0, "method": "mpncov", "degree": steps, **options})

    def extra_repr(self) -> str:
        shown = f"{self.in_channels}, reduce={self.reduce}, normalize={self.normalize!r}, vector={self.vector!r}"
        shown += f", eps={self.eps}, out_features={self.out_features}"
        shown += f", shrinkage={self.shrinkage}" if self.shrinkage else ""
        shown += f", channel_dim={self.channel_dim}" if self.channel_dim != 1 else ""
        return shown + (f", method={self.method!r}" if self.method != "auto" else "")

    def forward(self, input: Tensor) -> Tensor:
        """Pool (N, C, ...), or tokens (N, L, C) for channel_dim=-1."""
        fits = input.dim() >= 3 and input.is_floating_point()
        if not fits or input.shape[self.channel_dim] != self.in_channels:
            expected = f"input must have {self.in_channels} channels in dimension {self.channel_dim}"
            _check.fail("nn.CovariancePool", f"{expected}, and positions", f"{input.dtype} {tuple(input.shape)}")
        x = input.movedim(self.channel_dim, 1).flatten(2)
        if self.reduction is not None:
            x = self.reduction(x)
        with without_autocast(x):
            return self._pooled(statistics.wide(x)).to(input.dtype)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.centered:
            cov = statistics.moments(x, x.shape[1], per_sample=True).cov[:, 0]
        else:
            cov = x @ x.mT / max(x.shape[2], 1)
        if self.normalize == "sqrt":
            cov = self._root(statistics.ridged(cov, self.shrinkage, self.eps, cov.shape[-1]))
        elif self.normalize == "signed_sqrt":
            size = cov.abs() + self.eps
            cov = cov.sign() * (size.sqrt() - self.eps**0.5)
        if self.vector is None:
            return cov
        flat = cov.flatten(1)
        if self.vector == "full":
            return flat
        flat = flat[:, self.upper]
        if self.scale_off_diagonal:
            diagonal = self.upper % (cov.shape[-1] + 1) == 0
            flat = flat * torch.where(diagonal, 1.0, 2**0.5).to(flat.dtype)
        return flat

    def _root(self, cov: Tensor) -> Tensor:
        if self.method == "auto":
            return roots.sqrtm(cov, rtol=self.rtol)
        if self.method == "mpncov":
            return _newton_schulz_by_trace(cov, 3 if self.degree is None else self.degree)
        options: dict[str, Any] = {"degree": self.degree, "iterations": self.iterations}
        return paper.sqrtm(cov, method=self.method, backward=self.backward, **options)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        theirs = prefix + "conv_dr_block."
        for key in [key for key in state_dict if key.startswith(theirs)]:
            value = state_dict.pop(key)
            state_dict[prefix + "reduction." + key.removeprefix(theirs)] = (
                value.squeeze(-1) if value.dim() > 3 else value
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _newton_schulz_by_trace(A: Tensor, steps: int) -> Tensor:
    """Coupled Newton-Schulz steps on A over its trace; the paper's systems divide by the Frobenius norm.

    Source: Li, Xie, Wang and Gao, arXiv 1712.01034, equations 4 to 6.
    """
    if steps < 1:
        _check.fail("nn.CovariancePool", "degree must be positive", steps)
    trace = A.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    Y = A / trace
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    Z = eye.expand_as(Y)
    for step in range(steps):
        T = 1.5 * eye - (Y if step == 0 else Z @ Y) / 2
        Y, Z = Y @ T, T if step == 0 else T @ Z
    return Y * trace.sqrt()


class SecondOrderHead(nn.Module):
    """Classify the tokens of a transformer by its class token and by the covariance of the others.

    Args:
        in_features: The size of a token.
        num_classes: The number of scores.
        dim: The tokens are projected to this size before their covariance is taken.
        class_token: Whether the first token is a class token. Without one, all tokens are pooled, and only that
            description is classified.
        drop: Dropout in front of both classifiers.
        options: Other keywords of `CovariancePool`.

    Returns:
        Scores (N, num_classes) of tokens (N, 1 + L, in_features): the sum of a linear classifier of the class token and
        of one of the root of the covariance of the others.

    Gradient:
        As `CovariancePool`.

    Cost:
        As `CovariancePool` with d = dim, and dim (dim + 1) / 2 + in_features weights a class.

    Raises:
        RuntimeError: The tokens have another size, or there is none beside the class token.

    Source:
        Xie, Zeng, Wang, Zhou and Li, *So-ViT: Mind Visual Tokens for Vision Transformer*, arXiv 2104.10935.

    Example:
        >>> head = fastsqrtm.nn.SecondOrderHead(192, num_classes=10)
        >>> head(torch.randn(4, 1 + 196, 192)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        dim: int = 48,
        class_token: bool = True,
        drop: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_features, self.class_token = in_features, class_token
        self.projection = nn.Linear(in_features, dim, bias=False, **factory)  # the covariance has no use for a bias
        self.pool = CovariancePool(dim, channel_dim=-1, **factory, **options)
        self.drop = nn.Dropout(drop)
        self.visual = nn.Linear(self.pool.out_features, num_classes, **factory)
        self.classifier = nn.Linear(in_features, num_classes, **factory) if class_token else None

    def forward(self, tokens: Tensor) -> Tensor:
        """Classify (N, 1 + L, C), or (N, L, C) without a class token."""
        least = 1 + int(self.class_token)
        if tokens.dim() != 3 or tokens.shape[2] != self.in_features or tokens.shape[1] < least:
            expected = f"tokens must be (N, {least} or more, {self.in_features})"
            _check.fail("nn.SecondOrderHead", expected, tuple(tokens.shape))
        visual = tokens[:, 1:] if self.class_token else tokens
        scores: Tensor = self.visual(self.drop(self.pool(self.projection(visual)).flatten(1)))
        if self.classifier is not None:
            scores = scores + self.classifier(self.drop(tokens[:, 0]))
        return scores
