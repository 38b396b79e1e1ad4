"""Benchmark of fastsqrtm against its peers: ``python -m bench`` from the root of the repository."""

import sys
from pathlib import Path

# `python -m bench` puts the repository, where fastsqrtm is only sources, first on the path: an installed one must
# precede it.
_root = str(Path(__file__).resolve().parent.parent)
if sys.path[0] in ("", _root):
    sys.path.append(_root)
    del sys.path[0]
