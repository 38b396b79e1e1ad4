"""Every op's schema, used when the native library is absent. Counterpart in C++: csrc/schema.cpp (a test compares)."""

SCHEMAS = {
    "mpa_lya": "(Tensor A, int degree=5, int iterations=8) -> Tensor",
    "mtp_lya": "(Tensor A, int degree=10, int iterations=8) -> Tensor",
    "mpa_lya_inv": "(Tensor A, int degree=5, int iterations=8) -> Tensor",
    "mtp_lya_inv": "(Tensor A, int degree=10, int iterations=8) -> Tensor",
    "lyapunov": "(Tensor B, Tensor C, int iterations=8) -> Tensor",
    "sqrtm": "(Tensor A, float rtol=0.) -> Tensor",
    "inv_sqrtm": "(Tensor A, float rtol=0.) -> Tensor",
    "sqrtm_and_inv": "(Tensor A, float rtol=0.) -> Tensor",
    "mpa": "(Tensor A, int degree=5) -> Tensor",
    "mtp": "(Tensor A, int degree=10) -> Tensor",
    "mpa_inv": "(Tensor A, int degree=5) -> Tensor",
    "mtp_inv": "(Tensor A, int degree=10) -> Tensor",
    "ns": "(Tensor A, int iterations=5) -> Tensor",
    "ns_inv": "(Tensor A, int iterations=5) -> Tensor",
    "lyapunov_newton": "(Tensor B, Tensor C, float rtol=0.) -> Tensor",
    "sqrtm_lya_backward": "(Tensor A, Tensor S, Tensor G, int iterations=8) -> Tensor",
    "inv_sqrtm_lya_backward": "(Tensor Z, Tensor G, int iterations=8) -> Tensor",
    "sqrtm_backward": "(Tensor S, Tensor G, float rtol=0.) -> Tensor",
    "inv_sqrtm_backward": "(Tensor Z, Tensor G, float rtol=0.) -> Tensor",
    "sqrtm_and_inv_backward": "(Tensor R, Tensor G, float rtol=0.) -> Tensor",
    "mpa_backward": "(Tensor A, Tensor G, int degree=5) -> Tensor",
    "mtp_backward": "(Tensor A, Tensor G, int degree=10) -> Tensor",
    "mpa_inv_backward": "(Tensor A, Tensor G, int degree=5) -> Tensor",
    "mtp_inv_backward": "(Tensor A, Tensor G, int degree=10) -> Tensor",
    "ns_backward": "(Tensor A, Tensor G, int iterations=5) -> Tensor",
    "ns_inv_backward": "(Tensor A, Tensor G, int iterations=5) -> Tensor",
}
"""Name of the op -> arguments and result; `f"{name}{SCHEMAS[name]}"` is what `torch.library.define` takes."""


def result_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the result for the shape of the first argument. The two roots of `sqrtm_and_inv` are (..., 2, n, n)."""
    *batch, m, n = shape
    if name == "sqrtm_and_inv":
        return (*batch, 2, m, n)
    if name == "sqrtm_and_inv_backward":
        return (*batch[:-1], m, n)
    return tuple(shape)
