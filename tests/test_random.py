"""Random calls, good and bad: the op returns the result of the reference, or raises its error."""

import math
import random

import pytest
import torch

import op_cases
from fastsqrtm import testing
from op_cases import OPS

GOOD = [torch.float32, torch.float64]
HALF = [torch.float16, torch.bfloat16]
BAD = [torch.int32, torch.bool, torch.complex128]


def chance(rng, p):
    return rng.random() < p


def random_view(rng, x):
    """x in other memory: permuted, sliced, at an offset, or as it is."""
    order = list(range(x.dim()))
    rng.shuffle(order)
    inverse = [order.index(i) for i in range(x.dim())]
    x = x.permute(order).contiguous().permute(inverse)
    if chance(rng, 0.3):
        larger = torch.zeros([s + rng.randint(0, 2) for s in x.shape], dtype=x.dtype)
        place = tuple(slice(0, s) for s in x.shape)
        larger[place] = x
        x = larger[place]
    return x


def random_call(rng):
    name = rng.choice(list(OPS))
    n = rng.choice([0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 33])
    batch = tuple(rng.choice([0, 1, 1, 2, 3, 5]) for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 3])))
    dtype = rng.choice(GOOD) if chance(rng, 0.7) else rng.choice(HALF) if chance(rng, 0.7) else rng.choice(BAD)
    spectrum = rng.choice(["log", "wishart", "identity", "two_level"])
    A = testing.spd(n, 9.0, batch, spectrum, torch.float64, rng.randrange(99))
    tensors = op_cases.inputs_at(name, A, torch.float64, rng.randrange(99))
    tensors = [random_view(rng, x) for x in op_cases.cast(name, tensors, dtype)]
    if chance(rng, 0.1):  # a shape that does not fit
        i = rng.randrange(len(tensors))
        tensors[i] = rng.choice([tensors[i][..., :-1], tensors[i].flatten(), tensors[i][None], tensors[i].sum()])
    if chance(rng, 0.05):
        i = rng.randrange(len(tensors))
        tensors[i] = tensors[i].to(rng.choice(GOOD + HALF + BAD))
    numbers = []
    for number in OPS[name].numbers[: rng.randint(0, 2)]:
        if not number.whole:
            numbers.append(rng.choice([-1.0, 1.5, math.nan]) if chance(rng, 0.05) else 10 ** -rng.uniform(0, 16))
        else:
            most = 12 if number.name == "degree" else int(number.high)
            numbers.append(rng.choice([-3, 0, 129, 10**6]) if chance(rng, 0.05) else rng.randint(1, most))
    return name, (*tensors, *numbers)


def outcome(function, args):
    try:
        return testing.results(function(*args))
    except RuntimeError as error:
        return str(error).splitlines()[0]


TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float32: 1e-4, torch.float64: 1e-12}


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_a_hundred_calls(seed):
    rng = random.Random(seed)
    for _ in range(100):
        name, args = random_call(rng)
        ours = outcome(getattr(torch.ops.fastsqrtm, name), args)
        theirs = outcome(testing.twin(name), args)
        case = name, [tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in args]
        if isinstance(theirs, str):
            assert ours == theirs, case
            assert ours.startswith(f"fastsqrtm.{name}: "), case
        else:
            assert not isinstance(ours, str), (ours, case)
            rtol = args[-1] if isinstance(args[-1], float) else 0.0
            for our, their in zip(ours, theirs, strict=True):
                assert our.shape == their.shape and our.dtype == their.dtype, case
                assert torch.equal(our.isnan(), their.isnan()), case
            tolerance = TOLERANCE[args[0].dtype] + rtol
            finite = ([x.nan_to_num() for x in results] for results in (ours, theirs))
            assert op_cases.largest_error(name, *finite) < tolerance, case
