// Registers the schemas of all ops and defines the only symbol that a program refers to. The reference keeps the
// library linked (torch's dispatcher finds the rest) and makes a forgotten -l a link error.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastsqrtm, m) {
#define OP(name, schema, ...) m.def(#name schema);
#include "ops.def"
}

extern "C" __attribute__((visibility("default"))) const char* fastsqrtm_version() { return FASTSQRTM_VERSION; }
