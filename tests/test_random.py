"""Random calls, good and bad: the op returns the result of the reference, or raises its error."""

import math
import random

import pytest
import torch

from fastsqrtm import testing

TENSORS = {name: op.names for name, op in testing.OPS.items()}
NUMBERS = {name: [number.name for number in op.numbers] for name, op in testing.OPS.items()}
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
    name = rng.choice(list(TENSORS))
    n = rng.choice([0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 33])
    batch = tuple(rng.choice([0, 1, 1, 2, 3, 5]) for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 3])))
    dtype = rng.choice(GOOD) if chance(rng, 0.7) else rng.choice(HALF) if chance(rng, 0.7) else rng.choice(BAD)
    spectrum = rng.choice(["log", "wishart", "identity", "two_level"])
    tensors = [
        random_view(rng, testing.spd(n, 3.0, batch, spectrum, torch.float64, rng.randrange(99)).to(dtype))
        for _ in TENSORS[name]
    ]
    if name == "sqrtm_and_inv_backward":
        tensors[2:] = [2 * tensors[2], -1 * tensors[3]]  # otherwise the right-hand side G - Z H Z may cancel
    if chance(rng, 0.1):  # a shape that does not fit
        i = rng.randrange(len(tensors))
        tensors[i] = rng.choice([tensors[i][..., :-1], tensors[i].flatten(), tensors[i][None], tensors[i].sum()])
    if chance(rng, 0.05):
        i = rng.randrange(len(tensors))
        tensors[i] = tensors[i].to(rng.choice(GOOD + HALF + BAD))
    numbers = []
    for kind in NUMBERS[name][: rng.randint(0, 2)]:
        if kind == "rtol":
            numbers.append(rng.choice([-1.0, 1.5, math.nan]) if chance(rng, 0.05) else 10 ** -rng.uniform(0, 16))
        else:
            most = 12 if kind == "degree" else 100
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
                error = testing.relative_error(our.nan_to_num(), their.nan_to_num())
                assert not error.numel() or error.max() < TOLERANCE[our.dtype] + rtol, case
