"""The kernels of csrc/cuda, run on the host: every CUDA thread a fiber, every variant of every pass."""

import pytest
from emulated import EVERY_SIZE, emulation_build, every_pass, passes, run  # noqa: F401


@every_pass
def test_every_pass_by_every_path(build, name):
    """In float32, where a thread has a matrix, where teams share a warp and where they are whole warps. The slow tests
    have the rest."""
    passes(build("quick"), "values", name, "float32", 2, 3, 4, 13, 33)
    passes(build("quick"), "singular", name, "float32", 2, 3, 4, 13, 33)
    passes(build("quick"), "answers", name, 1, 2, 3, 4)
    passes(build("quick"), "large_brief", name, 20)
    passes(build("quick"), "large_singular", name, "float32", 5)


@pytest.mark.slow
@every_pass
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_values(build, name, dtype):
    sizes = {"float32": (*EVERY_SIZE, 77, 96, 100, 128), "float64": (*EVERY_SIZE, 79, 96)}.get(dtype, (3, 5, 48))
    passes(build("plain"), "values", name, dtype, *sizes)


@pytest.mark.slow
@every_pass
def test_ill_conditioned_matrices(build, name):
    """Runs the accurate passes; the others skip it."""
    passes(build("plain"), "hard", name, "float32", 5, 13, 16, 33, 64, 100)
    passes(build("plain"), "hard", name, "float64", 3, 16, 31, 48)


@pytest.mark.slow
@every_pass
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_singular_and_indefinite_matrices(build, name, dtype):
    """Runs the accurate roots and their gradients; the others skip it."""
    sizes = {"float32": (1, 2, 3, 4, 5, 16, 33, 64, 81), "float64": (1, 2, 3, 4, 5, 16, 33, 64)}.get(
        dtype, (2, 3, 4, 5, 33)
    )
    passes(build("plain"), "singular", name, dtype, *sizes)
    passes(build("plain"), "large_singular", name, dtype, 2, 5, 34)


@pytest.mark.slow
@every_pass
def test_manners(build, name):
    passes(build("plain"), "manners", name)


@pytest.mark.slow
@every_pass
def test_path_for_large_matrices(build, name):
    passes(build("plain"), "large", name, 5, 40, 65)


def test_matrices_of_any_shape(build):
    """The QR: in float32 by teams that share a warp and by whole warps, and in global memory."""
    passes(build("quick"), "rectangular", "float32", "13x13", "12x9", "33x33", "45x30")
    passes(build("quick"), "in_global_memory", "float32", "50x45", "40x60")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matrices_of_any_shape_by_every_path(build, dtype):
    shapes = ["1x1", "1x7", "7x1", "2x2", "5x5", "8x8", "16x16", "31x31", "33x32", "48x48", "64x64", "9x70", "70x9"]
    passes(build("plain"), "rectangular", dtype, *shapes, "80x80" if dtype == "float64" else "96x112")
    passes(build("plain"), "in_global_memory", dtype, "50x50", "20x90", "90x20")


def test_a_barrier_that_some_threads_skip_is_found(build):
    status, text = run(build("quick"), "skipped_barrier")
    assert status != 0 and "deadlock" in text, text


def test_large_matrices_by_sweeps_in_blocks(build):
    """Three blocks of pivots, the last of two columns."""
    for name in ("mpa", "mpa_backward"):
        passes(build("quick"), "blocked", "large_brief", name, 130)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mpa", "mpa_backward"])
def test_answers_by_sweeps_in_blocks(build, name):
    """Zero, NaN and indefinite matrices, every precision, and the same bits in any batch."""
    passes(build("plain"), "blocked", "large", name, 130)


@pytest.mark.slow
@every_pass
def test_more_than_2_to_the_31_elements(build, name):
    """Needs offsets of 64 bits, and more blocks than y and z of a grid hold."""
    passes(build("plain"), "far", name)


def test_plans(build):
    passes(build("quick"), "plans")
