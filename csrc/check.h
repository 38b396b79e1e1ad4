// Checks the arguments of an op by its signature. An error names the op, the argument, the expected and the actual
// value. Counterpart in Python, with the same texts: fastsqrtm/_ops/check.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "element.h"
#include "fastsqrtm/signature.h"

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

inline std::string device_name(const Tensor& A) {
  if (A.is_cpu()) return "cpu";
  return (A.is_cuda() ? "cuda:" : "device ") + std::to_string(A.get_device_index());
}

inline bool is_supported(ScalarType dtype) {
  return dtype == ScalarType::Half || dtype == ScalarType::BFloat16 || dtype == ScalarType::Float ||
         dtype == ScalarType::Double;
}

inline Element element_of(const Tensor& A) {
  switch (A.scalar_type()) {
    case ScalarType::Half:
      return Element::float16;
    case ScalarType::BFloat16:
      return Element::bfloat16;
    case ScalarType::Double:
      return Element::float64;
    default:  // torch's enum; check_dtype lets nothing else through
      return Element::float32;
  }
}

// Not TORCH_CHECK: it puts the C++ function and file in front of the text that the user needs.
[[noreturn]] inline void fail(std::string_view op, const std::string& expected, const std::string& came) {
  throw std::runtime_error("fastsqrtm." + std::string(op) + ": " + expected + ", got " + came);
}

// The sizes of one call: its leading dimensions, which are those of the first tensor, and the letters of ops.def. Only
// shape() allocates: a call on a small matrix takes a microsecond or two.
class Dimensions {
 public:
  // True if A has these dimensions. A letter that is new takes its size from A.
  bool bind(std::string_view letters, const Tensor& A) {
    const auto sizes = A.sizes();
    const size_t order = letters == "1" ? 0 : letters.size();
    if (sizes.size() < order) return false;
    if (leading_ == nullptr) {
      leading_ = &A;
      leading_count_ = sizes.size() - order;
    }
    if (sizes.size() != leading_count_ + order) return false;
    const auto expected = leading_->sizes();
    for (size_t i = 0; i < leading_count_; ++i) {
      if (sizes[i] != expected[i]) return false;
    }
    for (size_t i = 0; i < order; ++i) {
      int64_t& size = size_[letters[i] - 'a'];
      if (size == unknown) size = sizes[leading_count_ + i];
      if (size != sizes[leading_count_ + i]) return false;
    }
    return true;
  }

  std::vector<int64_t> shape(std::string_view letters) const {
    const auto leading = leading_->sizes();
    std::vector<int64_t> sizes(leading.begin(), leading.begin() + leading_count_);
    if (letters == "1") return sizes;
    for (const char letter : letters) {
      const int64_t size = size_[letter - 'a'];
      sizes.push_back(letter == 'k' && size == unknown ? std::min(size_['m' - 'a'], size_['n' - 'a']) : size);
    }
    return sizes;
  }

 private:
  static constexpr int64_t unknown = -1;

  const Tensor* leading_ = nullptr;
  size_t leading_count_ = 0;
  std::array<int64_t, 26> size_ = [] {
    std::array<int64_t, 26> sizes = {};
    sizes.fill(unknown);
    return sizes;
  }();
};

inline std::string shape_text(std::string_view letters) {
  std::string text = "(...";
  for (const char letter : letters) text += std::string(", ") + letter;
  return text + ")";
}

// The first tensor of an op fixes the dtype, the device and the leading dimensions.
inline void check_first(std::string_view op, const Argument& argument, const Tensor& A, Dimensions& dimensions) {
  if (!is_supported(A.scalar_type()))
    fail(op, std::string(argument.name) + " must be float16, bfloat16, float32 or float64",
         dtype_name(A.scalar_type()));
  if (!dimensions.bind(argument.dimensions, A))
    fail(op, std::string(argument.name) + " must be " + shape_text(argument.dimensions), shape_name(A));
}

// Every other tensor must match the first one.
inline void check_other(std::string_view op, const Argument& argument, const Tensor& C, const Argument& first,
                        const Tensor& B, Dimensions& dimensions) {
  const auto must = [&](const std::string& expected, const std::string& came) {
    fail(op, std::string(argument.name) + " must " + expected, came);
  };
  const auto of_first = [&](const std::string& value) { return std::string(first.name) + " " + value; };
  if (!dimensions.bind(argument.dimensions, C)) {
    if (argument.dimensions == first.dimensions) must("have the shape of " + of_first(shape_name(B)), shape_name(C));
    must("be " + shape_text(argument.dimensions) + " where " + of_first("is " + shape_name(B)), shape_name(C));
  }
  if (C.scalar_type() != B.scalar_type())
    must("have the dtype of " + of_first("(" + dtype_name(B.scalar_type()) + ")"), dtype_name(C.scalar_type()));
  if (C.device() != B.device()) must("be on the device of " + of_first("(" + device_name(B) + ")"), device_name(C));
}

// The number as Python's format "g" writes it.
inline std::string number_name(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

template <class Number>
void check_number(std::string_view op, const Argument& argument, Number value) {
  if (value >= argument.lowest && value <= argument.highest) return;
  const bool whole = argument.kind == Kind::integer;
  const std::string range = number_name(argument.lowest) + " to " + number_name(argument.highest);
  fail(op, std::string(argument.name) + " must be from " + range,
       whole ? std::to_string(int64_t(value)) : number_name(double(value)));
}

}  // namespace fastsqrtm
