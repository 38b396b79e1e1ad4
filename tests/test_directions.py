"""Imports and includes point down: general code never knows the code built on it.

Python: `nn`, `metrics`, `transfer` -> `roots`, `spd`, `linalg`, `lyapunov`, `polar`, `general`, `plan`,
`statistics`, `gaussians` -> `_reference` -> `_ops` -> torch.
`_ops` is the machine and knows no mathematics; `_reference` defines the ops by means of it. `paper` stands on `roots`,
and `nn` on both.
C++: `passes` -> `steps` or `library` -> `matrix` or `tile` -> `scalars`, without torch; no device sees the other.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EVERYDAY = {"roots", "spd", "linalg", "lyapunov", "general", "plan", "polar", "statistics"}
# The neighbours that a module or subpackage of fastsqrtm may import, in addition to itself.
MAY_IMPORT = {
    "_ops": set(),
    "_reference": {"_ops"},
    **{name: {"_ops", "_reference"} for name in EVERYDAY},
    "paper": {"_ops", "_reference", "roots"},
    "powers": {"_ops", "_reference", "roots"},
    "gaussians": {"_ops"},
    "nn": {"_ops", "paper"} | EVERYDAY,
    **{name: EVERYDAY | {"_ops", "gaussians"} for name in ("metrics", "transfer")},
    "testing": {"_ops"},
    "demo": {"paper", "testing", "metrics", "transfer", "style"},
    "style": {"metrics", "transfer"},
    "__main__": {"_ops", "demo", "style"},
}


def imported(path: Path, package: tuple[str, ...]) -> set[str]:
    """The names directly under fastsqrtm that a file imports; "" for the package itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = (*package[: len(package) - node.level + 1],) if node.level else ()
            base = (*start, *(node.module or "").split(".")) if node.module else start
            names = [(*base, alias.name) for alias in node.names]
        else:
            continue
        found |= {name[1] if len(name) > 1 else "" for name in names if name[0] == "fastsqrtm"}
    return found


def test_imports_inside_the_package_point_down():
    for path in sorted((ROOT / "fastsqrtm").rglob("*.py")):
        *folders, name = path.relative_to(ROOT).with_suffix("").parts
        place = folders[1] if len(folders) > 1 else name
        if place == "__init__":
            continue
        allowed = MAY_IMPORT[place] | {place}
        whole_package = {""} if place in ("demo", "__main__") else set()
        assert imported(path, tuple(folders)) <= allowed | whole_package, path


@pytest.mark.parametrize("folder", ["bench", "examples"])
def test_users_import_public_names(folder):
    """The studies of bench look into the mathematics as well."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        private = {name for name in imported(path, ()) if name.startswith("_")}
        assert private <= ({"_reference"} if folder == "bench" else set()), path
        assert not re.search(r"\bfastsqrtm\._(?!_|reference\b)", path.read_text()), path


SOURCES = ROOT / "csrc"
LAYERS = ({"scalars"}, {"matrix", "tile"}, {"steps", "library"}, {"passes"})
NO_TORCH = {"scalars", "matrix", "tile", "steps", "passes", "tiny"}


def layer(path: Path) -> int | None:
    """The layer of a file, counted from below; None for headers outside these folders, which any may include."""
    folders = set(path.relative_to(SOURCES).parts[:-1])
    return next((rank for rank, names in enumerate(LAYERS) if names & folders), None)


def includes(path: Path) -> list[Path]:
    """The files of csrc that a file includes, by a path from itself or from csrc."""
    names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE)
    places = [place.resolve() for name in names for place in (path.parent / name, SOURCES / name)]
    return [place for place in places if place.is_relative_to(SOURCES) and place.exists()]


def takes_lanes(path: Path, other: Path) -> bool:
    """Whether code for a GPU takes that of the CPU's lanes, which one of its threads runs: docs/cuda.md."""
    (device, folder), (from_device, from_folder) = (x.relative_to(SOURCES).parts[:2] for x in (path, other))
    same_pass = folder == from_folder == "passes" and path.stem == other.stem
    return (device, from_device) == ("cuda", "cpu") and (same_pass or folder == "tiny")


def test_includes_point_down():
    sources = [path for path in sorted(SOURCES.rglob("*")) if path.suffix in (".h", ".cpp", ".cuh", ".cu")]
    assert sources
    for path in sources:
        device = path.relative_to(SOURCES).parts[0]
        for other in includes(path):
            if layer(path) is not None and layer(other) is not None:
                assert layer(other) <= layer(path), (path, other)
            devices = {device, other.relative_to(SOURCES).parts[0]}
            assert not {"cpu", "cuda"} <= devices or takes_lanes(path, other), (path, other)
        if NO_TORCH & set(path.relative_to(SOURCES).parts):
            assert not re.search(r"#\s*include\s+<(torch|ATen|c10)/", path.read_text()), path
