// Types of matrix elements in memory. The half types are storage only: they are computed in float32.
#pragma once

namespace fastsqrtm {

enum class Element { float32, float64, float16, bfloat16 };

constexpr int storage_bytes(Element element) {
  return element == Element::float64 ? 8 : element == Element::float32 ? 4 : 2;
}
constexpr int compute_bytes(Element element) { return element == Element::float64 ? 8 : 4; }

}  // namespace fastsqrtm
