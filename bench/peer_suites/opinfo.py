"""The checks that torch makes of an operator through an OpInfo, of a matrix root; a pytest file, run by path.

The OpInfo is that of ``torch.linalg.matrix_sqrth``, which torch has since 2.14, for real types: the same inputs, and
the same claims of derivatives and transforms. The checks are those that torch installs with itself
(``torch.testing``).
"""

import os
from itertools import product

import torch
from torch.testing._internal import optests
from torch.testing._internal.common_device_type import OpDTypes, instantiate_device_type_tests, ops
from torch.testing._internal.common_dtype import floating_types
from torch.testing._internal.common_utils import (
    TestCase,
    TestGradients,
    noncontiguous_like,
    random_hermitian_pd_matrix,
)
from torch.testing._internal.composite_compliance import check_backward_formula, check_with_mode
from torch.testing._internal.opinfo.core import OpInfo, SampleInput, gradcheck_wrapper_hermitian_input

import fastsqrtm
from bench.peer_suites.plugin import CALLS


def eigh_root(A):
    """The root by eigendecomposition, as one writes it where torch has no matrix_sqrth."""
    L, V = torch.linalg.eigh(A)
    return (V * L.sqrt()[..., None, :]) @ V.mT


def our_root(A):
    CALLS["ours"] += 1
    return fastsqrtm.sqrtm(A)


def the_root():
    if os.environ.get("FASTSQRTM_IN_PLACE_OF"):
        return our_root
    return getattr(torch.linalg, "matrix_sqrth", eigh_root)


def sample_inputs(op_info, device, dtype, requires_grad=False, **kwargs):
    for batch, n in product([(), (0,), (2,), (1, 1)], [5, 0]):
        A = random_hermitian_pd_matrix(n, *batch, dtype=dtype, device=device)
        yield SampleInput(A.requires_grad_(requires_grad))


ROOT = [
    OpInfo(
        "linalg.matrix_sqrth",
        op=the_root(),
        dtypes=floating_types(),
        sample_inputs_func=sample_inputs,
        gradcheck_wrapper=gradcheck_wrapper_hermitian_input,
        supports_forward_ad=True,
        supports_fwgrad_bwgrad=True,
        check_batched_forward_grad=False,
        supports_out=False,
    )
]
double = ops(ROOT, dtypes=OpDTypes.supported, allowed_dtypes=[torch.float64])


def cotangent(result):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(result.shape, dtype=result.dtype, generator=generator)


class TestRootGradients(TestGradients):
    @double
    def test_fn_grad(self, device, dtype, op):
        self._grad_test_helper(device, dtype, op, op.get_op())

    @double
    def test_fn_gradgrad(self, device, dtype, op):
        self._check_helper(device, dtype, op, op.get_op(), "bwgrad_bwgrad")

    @double
    def test_fn_fwgrad_bwgrad(self, device, dtype, op):
        self._check_helper(device, dtype, op, op.get_op(), "fwgrad_bwgrad")

    @double
    def test_forward_mode_AD(self, device, dtype, op):
        forward = {"check_forward_ad": True, "check_backward_ad": False, "check_batched_grad": False}
        self._grad_test_helper(device, dtype, op, op.get_op(), **forward)


class TestRootCommon(TestCase):
    @ops(ROOT)
    def test_squares_to_its_input(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype):
            S = op(sample.input)
            self.assertEqual(S @ S, sample.input)
            self.assertEqual(S, S.mT)

    @ops(ROOT)
    def test_noncontiguous_samples(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            A = sample.input
            B = noncontiguous_like(A.detach()).requires_grad_()
            S, T = op(A), op(B)
            self.assertEqual(S, T)
            G = cotangent(S)
            self.assertEqual(*(torch.autograd.grad(root, matrix, G)[0] for root, matrix in ((S, A), (T, B))))

    @ops(ROOT)
    def test_vmap_is_the_loop(self, device, dtype, op):
        for shape, axis in product([(4, 5, 5), (4, 2, 5, 5), (4, 0, 0), (4, 0, 5, 5)], (0, -1)):
            A = random_hermitian_pd_matrix(shape[-1], *shape[:-2], dtype=dtype, device=device)
            expected = torch.stack([op(a) for a in A])
            self.assertEqual(torch.vmap(op, in_dims=axis)(A.movedim(0, axis)), expected)

    @double
    def test_transforms_are_autograd(self, device, dtype, op):
        def vjp(a, g):
            return torch.func.vjp(op, a)[1](g)[0]

        def vjpvjp(a, g, h):
            return torch.func.vjp(vjp, a, g)[1](h)

        def jvp(a, g):
            return torch.func.jvp(op, (a,), (g,))[1]

        for shape in ((3, 5, 5), (3, 2, 5, 5), (3, 0, 0), (3, 0, 5, 5)):
            A = random_hermitian_pd_matrix(shape[-1], *shape[:-2], dtype=dtype, device=device)
            G, H = cotangent(A), cotangent(A).mT
            for function, inputs in ((vjp, (A, G)), (vjpvjp, (A, G, H)), (jvp, (A, G + G.mT))):
                loop = [function(*one) for one in zip(*inputs, strict=True)]
                loop = tuple(map(torch.stack, zip(*loop, strict=True))) if function is vjpvjp else torch.stack(loop)
                self.assertEqual(torch.vmap(function)(*inputs), loop)

    @ops(ROOT)
    def test_fake_tensors(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype):
            optests.fake_check(op.get_op(), (sample.input,), {})

    @ops(ROOT, allowed_dtypes=[torch.float32])
    def test_aot_autograd(self, device, dtype, op):
        for dynamic, sample in product((False, True), op.sample_inputs(device, dtype, requires_grad=True)):
            optests.aot_autograd_check(op.get_op(), (sample.input,), {}, dynamic=dynamic)

    @ops(ROOT, allowed_dtypes=[torch.float32])
    def test_make_fx(self, device, dtype, op):
        for mode, sample in product(("real", "fake", "symbolic"), op.sample_inputs(device, dtype)):
            optests.make_fx_check(op.get_op(), (sample.input,), {}, mode)

    @ops(ROOT, allowed_dtypes=[torch.float32])
    def test_composite_compliance(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype):
            check_with_mode(op, (sample.input,), {}, self.assertEqual)

    @ops(ROOT, allowed_dtypes=[torch.float32])
    def test_composite_compliance_of_backward(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            check_backward_formula(op.get_op(), (sample.input,), {}, assert_equal_fn=self.assertEqual)


for test_case in (TestRootGradients, TestRootCommon):
    instantiate_device_type_tests(test_case, globals(), only_for="cpu")
