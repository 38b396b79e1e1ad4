"""Every op's schema, used when the native library is absent. Counterpart in C++: csrc/schema.cpp (a test compares)."""

SCHEMAS = {
    "mpa_lya": "(Tensor A, int degree=5, int iterations=8) -> Tensor",
    "mtp_lya": "(Tensor A, int degree=10, int iterations=8) -> Tensor",
    "mpa_lya_inv": "(Tensor A, int degree=5, int iterations=8) -> Tensor",
    "mtp_lya_inv": "(Tensor A, int degree=10, int iterations=8) -> Tensor",
    "lyapunov": "(Tensor B, Tensor C, int iterations=8) -> Tensor",
    "sqrtm_lya_backward": "(Tensor A, Tensor S, Tensor G, int iterations=8) -> Tensor",
    "inv_sqrtm_lya_backward": "(Tensor Z, Tensor G, int iterations=8) -> Tensor",
}
"""Name of the op -> arguments and result; `f"{name}{SCHEMAS[name]}"` is what `torch.library.define` takes."""
