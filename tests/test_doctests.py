"""The examples of the docstrings."""

import doctest

import pytest
import torch

import fastsqrtm
from fastsqrtm import functional, testing

EXAMPLES = [test for module in (functional, testing) for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_example(example):
    example.globs.update(fastsqrtm=fastsqrtm, torch=torch)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_every_public_function_has_one():
    functions = {"lyapunov", "mpa_lya", "mpa_lya_inv", "mtp_lya", "mtp_lya_inv", "plan"}
    assert {f"fastsqrtm.functional.{name}" for name in functions} <= {test.name for test in EXAMPLES}
