// Argument checks by the signature of an op. An error names op, argument, expectation and what came. Counterpart in
// Python, with the same texts: fastsqrtm/_ops/check.py.
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
    default:  // an enum of torch's; check_dtype lets nothing else through
      return Element::float32;
  }
}

// Not TORCH_CHECK: it puts the C++ function and file in front of the text that the user needs.
[[noreturn]] inline void fail(std::string_view op, const std::string& expected, const std::string& came) {
  throw std::runtime_error("fastsqrtm." + std::string(op) + ": " + expected + ", got " + came);
}

// The sizes that the letters of ops.def stand for in one call, after the leading dimensions.
class Dimensions {
 public:
  std::vector<int64_t> batch;

  // The shape of a tensor with these dimensions; every letter must be known by then.
  std::vector<int64_t> shape(std::string_view letters) const {
    std::vector<int64_t> sizes = batch;
    if (letters == "1") return sizes;
    for (const char letter : letters) sizes.push_back(letter == 'k' && !knows('k') ? smaller() : size_[letter - 'a']);
    return sizes;
  }
  // Learns the letters that are new.
  void bind(std::string_view letters, const Tensor& A) {
    for (size_t i = 0; i < letters.size(); ++i) {
      if (!knows(letters[i])) size_[letters[i] - 'a'] = A.size(int64_t(i) - int64_t(letters.size()));
    }
  }
  bool knows(char letter) const { return size_[letter - 'a'] >= 0; }

 private:
  int64_t smaller() const { return std::min(size_['m' - 'a'], size_['n' - 'a']); }

  std::array<int64_t, 26> size_ = [] {
    std::array<int64_t, 26> unknown = {};
    unknown.fill(-1);
    return unknown;
  }();
};

inline std::string shape_text(std::string_view letters) {
  std::string text = "(...";
  for (const char letter : letters) text += std::string(", ") + letter;
  return text + ")";
}

// The first tensor of an op fixes the dtype, the device, the leading dimensions and the sizes that its letters stand
// for.
inline Dimensions check_first(std::string_view op, const Argument& argument, const Tensor& A) {
  const std::string name(argument.name);
  if (!is_supported(A.scalar_type()))
    fail(op, name + " must be float16, bfloat16, float32 or float64", dtype_name(A.scalar_type()));
  const std::string_view letters = argument.dimensions;
  const int64_t leading = A.dim() - int64_t(letters.size());
  bool fits = leading >= 0;
  Dimensions dimensions;
  if (fits) {
    dimensions.bind(letters, A);
    dimensions.batch.assign(A.sizes().begin(), A.sizes().begin() + leading);
    const auto expected = dimensions.shape(letters);
    fits = std::equal(expected.begin(), expected.end(), A.sizes().begin());
  }
  if (!fits) fail(op, name + " must be " + shape_text(letters), shape_name(A));
  return dimensions;
}

// Every other tensor is like the first one.
inline void check_other(std::string_view op, const Argument& argument, const Tensor& C, const Argument& first,
                        const Tensor& B, Dimensions& dimensions) {
  const std::string name(argument.name), first_name(first.name);
  const std::string_view letters = argument.dimensions;
  if (C.dim() == int64_t(dimensions.batch.size() + letters.size())) dimensions.bind(letters, C);
  const bool known = std::all_of(letters.begin(), letters.end(), [&](char c) { return dimensions.knows(c); });
  const auto expected = known ? dimensions.shape(letters) : std::vector<int64_t>{};
  if (!known || expected.size() != C.sizes().size() ||
      !std::equal(expected.begin(), expected.end(), C.sizes().begin())) {
    if (letters == first.dimensions)
      fail(op, name + " must have the shape of " + first_name + " " + shape_name(B), shape_name(C));
    fail(op, name + " must be " + shape_text(letters) + " beside " + first_name + " " + shape_name(B), shape_name(C));
  }
  if (C.scalar_type() != B.scalar_type())
    fail(op, name + " must have the dtype of " + first_name + " (" + dtype_name(B.scalar_type()) + ")",
         dtype_name(C.scalar_type()));
  if (C.device() != B.device())
    fail(op, name + " must be on the device of " + first_name + " (" + device_name(B) + ")", device_name(C));
}

// As Python's format "g" writes it.
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
