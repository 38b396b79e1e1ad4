// Argument checks: op, argument, what is expected, what came. Counterpart in Python, with the same texts:
// fastsqrtm/_check.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>
#include <string>

#include "scalars/coefficients.h"

namespace fastsqrtm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_name(const Tensor& A) {
  std::string text = "(";
  for (int64_t i = 0; i < A.dim(); ++i) text += (i ? ", " : "") + std::to_string(A.size(i));
  return text + (A.dim() == 1 ? ",)" : ")");
}

inline std::string dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return "another dtype";
  }
}

inline bool is_supported(ScalarType dtype) {
  return dtype == ScalarType::Half || dtype == ScalarType::BFloat16 || dtype == ScalarType::Float ||
         dtype == ScalarType::Double;
}

// Not TORCH_CHECK: it puts the C++ function and file in front of the text that the user needs.
[[noreturn]] inline void fail(const char* op, const std::string& expected, const std::string& came) {
  throw std::runtime_error(std::string("fastsqrtm.") + op + ": " + expected + ", got " + came);
}

inline void check_matrices(const char* op, const std::string& name, const Tensor& A) {
  if (!is_supported(A.scalar_type()))
    fail(op, name + " must be float16, bfloat16, float32 or float64", dtype_name(A.scalar_type()));
  if (A.dim() < 2 || A.size(-1) != A.size(-2)) fail(op, name + " must be (..., n, n)", shape_name(A));
}

inline void check_like(const char* op, const std::string& name, const Tensor& C, const std::string& first,
                       const Tensor& B) {
  const auto c = C.sizes(), b = B.sizes();
  if (c.size() != b.size() || !std::equal(c.begin(), c.end(), b.begin()))
    fail(op, name + " must have the shape of " + first + " " + shape_name(B), shape_name(C));
  if (C.scalar_type() != B.scalar_type())
    fail(op, name + " must have the dtype of " + first + " (" + dtype_name(B.scalar_type()) + ")",
         dtype_name(C.scalar_type()));
}

inline void check_count(const char* op, const char* name, int64_t value, int64_t limit) {
  if (value < 1 || value > limit)
    fail(op, std::string(name) + " must be from 1 to " + std::to_string(limit), std::to_string(value));
}

inline void check_rtol(const char* op, double rtol) {
  if (rtol >= 0 && rtol <= 1) return;
  std::ostringstream text;  // as Python's format "g" writes a number
  text << rtol;
  fail(op, "rtol must be from 0 to 1", text.str());
}

inline void check_iterations(const char* op, int64_t iterations) {
  check_count(op, "iterations", iterations, max_iterations);
}

}  // namespace fastsqrtm
