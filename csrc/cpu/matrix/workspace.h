// The matrices that a pass has for itself, carved from the workspace of one thread.
#pragma once

#include "cpu/matrix/panel.h"

namespace fastsqrtm {
namespace FASTSQRTM_ISA {

template <class T>
struct Workspace {
  void* data;
  int n;

  Panels<T> operator[](int i) const { return {static_cast<T*>(data) + i * Panels<T>::size(n), n}; }
};

}  // namespace FASTSQRTM_ISA
}  // namespace fastsqrtm
