// std::numeric_limits as constants, which device code may read where it may not call constexpr functions of the host.
#pragma once

#include <limits>

namespace fastsqrtm {

template <typename T>
struct Limits {
  static constexpr T epsilon = std::numeric_limits<T>::epsilon(), min = std::numeric_limits<T>::min(),
                     max = std::numeric_limits<T>::max(), infinity = std::numeric_limits<T>::infinity(),
                     quiet_NaN = std::numeric_limits<T>::quiet_NaN();
};

}  // namespace fastsqrtm
