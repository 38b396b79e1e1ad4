/// @file
/// The lines of ops.def, read by the compiler: names, kinds, defaults and ranges of the arguments of every op, and the
/// shapes of its tensors. No torch header; fastsqrtm.h calls the ops by it, csrc/ops.h checks their arguments.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fastsqrtm {

enum class Kind { tensor, integer, real };

struct Argument {
  std::string_view name;
  Kind kind = Kind::tensor;
  double default_value = 0;        // of a number
  double lowest = 0, highest = 0;  // of a number
  std::string_view dimensions;     // of a tensor, one letter each, after the leading dimensions
};

struct Result {
  std::string_view dimensions;  // "1": one number a matrix
  bool is_index = false;        // int64, without a gradient; else of the dtype of the first argument
};

struct Signature {
  std::string_view name;
  std::size_t argument_count = 0, result_count = 0;
  std::array<Argument, 8> arguments = {};
  std::array<Result, 4> results = {};

  /// How many arguments are tensors; they come before the numbers.
  constexpr std::size_t tensor_count() const {
    std::size_t count = 0;
    while (count < argument_count && arguments[count].kind == Kind::tensor) ++count;
    return count;
  }

  /// Position of the argument with this name. A name that no argument has throws, which at compile time is an error.
  constexpr std::size_t position(std::string_view argument) const {
    for (std::size_t i = 0; i < argument_count; ++i)
      if (arguments[i].name == argument) return i;
    throw "ops.def: the op has no argument of this name";
  }
};

namespace detail {

constexpr bool is_blank(char c) { return c == ' ' || c == ','; }

/// Takes the next word off the front of `text`: up to a comma, a blank or the end, which it drops.
constexpr std::string_view next_word(std::string_view& text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  std::size_t length = 0;
  while (length < text.size() && !is_blank(text[length])) ++length;
  const std::string_view word = text.substr(0, length);
  text.remove_prefix(length);
  return word;
}

/// A decimal number such as 0, 32, 0.5 or -1.
constexpr double number_of(std::string_view digits) {
  if (!digits.empty() && digits.front() == '-') return -number_of(digits.substr(1));
  double value = 0, unit = 0;
  for (const char c : digits) {
    if (c == '.') {
      unit = 1;
    } else {
      value = 10 * value + (c - '0');
      unit *= 10;
    }
  }
  return unit > 0 ? value / unit : value;
}

/// A line of ops.def. A line that breaks its rules throws, which at compile time is an error.
constexpr Signature parse(std::string_view name, std::string_view schema, std::string_view shapes,
                          std::string_view ranges) {
  Signature op;
  op.name = name;
  const std::size_t end = schema.find(')'), arrow = shapes.find("->");
  std::string_view arguments = schema.substr(1, end - 1), dimensions = shapes.substr(0, arrow);
  for (std::string_view type = next_word(arguments); !type.empty(); type = next_word(arguments)) {
    Argument& argument = op.arguments[op.argument_count++];
    argument.name = next_word(arguments);
    if (type == "Tensor") {
      argument.dimensions = next_word(dimensions);
      if (argument.dimensions.empty()) throw "ops.def: a tensor argument has no shape";
      continue;
    }
    if (type != "int" && type != "float") throw "ops.def: an argument is no Tensor, int or float";
    argument.kind = type == "int" ? Kind::integer : Kind::real;
    const std::size_t equals = argument.name.find('=');
    if (equals == std::string_view::npos) throw "ops.def: a number has no default";
    argument.default_value = number_of(argument.name.substr(equals + 1));
    argument.name = argument.name.substr(0, equals);
    bool has_range = false;
    std::string_view left = ranges;
    for (std::string_view word = next_word(left); !word.empty(); word = next_word(left)) {
      const std::string_view range = next_word(left);
      if (word != argument.name) continue;
      const std::size_t dots = range.find("..");
      argument.lowest = number_of(range.substr(0, dots));
      argument.highest = number_of(range.substr(dots + 2));
      has_range = true;
    }
    if (!has_range) throw "ops.def: a number has no range";
  }
  std::string_view results = shapes.substr(arrow + 2);
  for (std::string_view word = next_word(results); !word.empty(); word = next_word(results)) {
    const std::size_t colon = word.find(':');
    op.results[op.result_count++] = {word.substr(0, colon), colon != std::string_view::npos};
  }
  return op;
}

}  // namespace detail

/// The signature of every op under its name. A macro OP or PASS of the program is put back afterwards.
namespace signatures {
#pragma push_macro("OP")
#pragma push_macro("PASS")
#undef OP
#undef PASS
#define OP(name, schema, shapes, ranges) inline constexpr Signature name = detail::parse(#name, schema, shapes, ranges);
#include "ops.def"
#pragma pop_macro("PASS")
#pragma pop_macro("OP")
}  // namespace signatures

}  // namespace fastsqrtm
