"""Benchmark of fastsqrtm against what others run: ``python -m bench`` from the root of the repository."""

import sys
from pathlib import Path

# `python -m bench` puts the repository first, where fastsqrtm is only sources: let an installed one go before it.
_root = str(Path(__file__).resolve().parent.parent)
if sys.path[0] in ("", _root):
    sys.path.append(_root)
    del sys.path[0]
