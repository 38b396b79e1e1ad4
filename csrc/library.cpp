// The schemas of all ops, and the one symbol of this library that a program links to: it finds all the rest in torch's
// dispatcher. Referring to it keeps the library linked and makes a forgotten -l a link error.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastsqrtm, m) {
#define OP(name, schema, ...) m.def(#name schema);
#include "ops.def"
}

extern "C" __attribute__((visibility("default"))) const char* fastsqrtm_version() { return FASTSQRTM_VERSION; }
