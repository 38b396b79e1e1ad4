"""Layers made of matrix roots: whitening in the place of batch norm, covariance pooling, losses.

`import fastsqrtm.nn` loads them; `import fastsqrtm` alone does not.
"""

from .convert import calibrate, convert_batchnorm, convert_sync_whitening, fold, load_published
from .loss import WMSELoss
from .pooling import CovariancePool, SecondOrderHead
from .whitening import BatchWhitening1d, BatchWhitening2d, BatchWhitening3d, DomainWhitening, GroupWhitening

__all__ = [
    "BatchWhitening1d",
    "BatchWhitening2d",
    "BatchWhitening3d",
    "CovariancePool",
    "DomainWhitening",
    "GroupWhitening",
    "SecondOrderHead",
    "WMSELoss",
    "calibrate",
    "convert_batchnorm",
    "convert_sync_whitening",
    "fold",
    "load_published",
]
