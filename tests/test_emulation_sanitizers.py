"""The emulated kernels under ThreadSanitizer and AddressSanitizer: a missing barrier is a data race to the one, and the
other sees an index out of bounds. Two faults, switched on at run time, show that the sanitizers find such faults.

A file of its own, because a file stays in one process.
"""

import pytest
from emulated import VARIANTS, emulation_build, every_pass, passes, run  # noqa: F401


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "address"])
@every_pass
def test_sanitizers_find_nothing(build, kind, name):
    """Every variant of the kernel that the build has, and the path for large matrices."""
    for dtype, sizes in VARIANTS[kind].items():
        passes(build(kind), "brief", name, dtype, *sizes)
    passes(build(kind), "singular", name, "float32", 4, 13, 20)
    passes(build(kind), "large_brief", name, 33)
    passes(build(kind), "large_singular", name, "float32", 17)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "address"])
@pytest.mark.parametrize("name", ["mpa", "mpa_backward"])
def test_sanitizers_find_nothing_in_sweeps_in_blocks(build, kind, name):
    passes(build(kind), "blocked", "large_brief", name, 130)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "address"])
def test_sanitizers_find_nothing_in_matrices_of_any_shape(build, kind):
    passes(build(kind), "rectangular", "float32", "7x7", "13x13", "33x33", "60x20", "60x60")
    if "float64" in VARIANTS[kind]:
        passes(build(kind), "rectangular", "float64", "13x13", "40x40")
    passes(build(kind), "in_global_memory", "float32", "60x55")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "address"])
@every_pass
def test_sanitizers_find_nothing_where_neighbours_differ(build, kind, name):
    """A matrix that needs a second attempt, or never stops, shares a warp with others that do not, or that do.

    Runs the passes whose loops follow the matrix; the others skip it."""
    passes(build(kind), "neighbours", name, 3, 7, 13, 31)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mpa", "lyapunov", "mpa_backward", "mtp_backward", "ns", "ns_backward"])
def test_a_missing_barrier_is_found(build, name):
    for n in 3, 31:
        status, text = run(build("thread"), "seed_missing_barrier", "values", name, "float32", n)
        assert status != 0 and "data race" in text, text


@pytest.mark.slow
@every_pass
def test_an_index_out_of_bounds_is_found(build, name):
    for way in run(build("address"), "names", name)[1].split():
        for n in 4, 13:
            status, text = run(build("address"), "seed_out_of_bounds", "values", way, "float32", n)
            assert status != 0 and "heap-buffer-overflow" in text, text
