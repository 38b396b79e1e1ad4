/// @file
/// fastsqrtm::ops: every line of ops.def as a function object that calls torch's dispatcher. The functions of
/// fastsqrtm.h and paper.h are made of these; programs need them for the gradients alone, whose names end in
/// "backward".
///
/// An op takes the arguments of its schema, numbers optional, and returns at::Tensor or, for several results,
/// std::tuple<at::Tensor, ...>. `ops::sqrtm.call` is the function that takes all arguments, for a program that needs an
/// address.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <fastsqrtm/signature.h>

#include <initializer_list>
#include <iterator>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

extern "C" const char* fastsqrtm_version();

namespace fastsqrtm {
namespace detail {

template <Kind kind>
using TypeOf = std::conditional_t<kind == Kind::tensor, const at::Tensor&,
                                  std::conditional_t<kind == Kind::integer, int64_t, double>>;

template <const Signature& op, std::size_t i>
using ArgumentType = TypeOf<op.arguments[i].kind>;

template <std::size_t>
using TensorAt = at::Tensor;

template <std::size_t... i>
std::tuple<TensorAt<i>...> tuple_of_tensors(std::index_sequence<i...>);

/// at::Tensor, or for several results a tuple of them.
template <const Signature& op>
using ResultType = std::conditional_t<op.result_count == 1, at::Tensor,
                                      decltype(tuple_of_tensors(std::make_index_sequence<op.result_count>{}))>;

[[noreturn]] inline void fail(const std::string& text) { throw c10::Error({__func__, __FILE__, __LINE__}, text); }

inline const char* layout_name(at::Layout layout) {
  const char* names[] = {"strided",    "sparse_coo", "sparse_csr", "_mkldnn",
                         "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged"};
  return size_t(layout) < std::size(names) ? names[size_t(layout)] : "another layout";
}

inline const at::Tensor* as_tensor(const at::Tensor& x) { return &x; }
inline const at::Tensor* as_tensor(int64_t) { return nullptr; }
inline const at::Tensor* as_tensor(double) { return nullptr; }

/// Refuses a tensor with a tangent of forward mode, which a C++ rule would drop.
inline void check_no_tangent(const Signature& op, std::initializer_list<const at::Tensor*> arguments) {
  const Argument* argument = op.arguments.data();
  for (const at::Tensor* x : arguments) {
    if (!x) break;  // tensors come first
    if (x->_fw_grad(/*level=*/0).defined())
      fail(c10::str("fastsqrtm.", op.name, ": ", argument->name,
                    " has a tangent: forward mode is in Python alone, so unpack the primal tensor"));
    ++argument;
  }
}

/// Refuses a tensor that requires a gradient, which a function without a rule would drop.
inline void check_no_gradient(const Signature& op, const Argument& argument, const at::Tensor& x) {
  if (x.requires_grad() && at::GradMode::is_enabled())
    fail(c10::str("fastsqrtm.", op.name, ": ", argument.name,
                  " requires a gradient: call the function of fastsqrtm::autograd, or hold an at::NoGradGuard"));
}

/// Refuses the tensors for which the dispatcher would fail before it reaches the checks of the kernels.
inline void check(const Signature& op, const c10::OperatorHandle& handle,
                  std::initializer_list<const at::Tensor*> arguments) {
  const at::Tensor& first = **arguments.begin();
  const Argument* argument = op.arguments.data();
  const auto complain = [&](const std::string& text) {
    fail(c10::str("fastsqrtm.", op.name, ": ", argument->name, " ", text));
  };
  for (const at::Tensor* x : arguments) {
    if (!x) break;  // tensors come first
    if (x->layout() != at::kStrided) complain(std::string("must be a strided tensor, got ") + layout_name(x->layout()));
    if (x->is_nested())
      complain(
          "must be a strided tensor (stack matrices of one size, or take those of unbind() one by one), got a nested "
          "tensor");
    // The kernels look at shape and dtype before they look at the device, so these errors have precedence here.
    const bool fits = x->sizes() == first.sizes() || argument->dimensions != op.arguments[0].dimensions;
    if (x->device() != first.device() && fits && x->dtype() == first.dtype())
      complain(
          c10::str("must be on the device of ", op.arguments[0].name, " (", first.device(), "), got ", x->device()));
    if (!handle.hasKernelForDispatchKey(c10::DispatchKey::Autograd) &&
        !c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutogradCPU))
      check_no_gradient(op, *argument, *x);
    ++argument;
  }
}

/// The route of a call that goes straight to the dispatcher. The other one is autograd::Differentiable.
struct Dispatched {
  template <const Signature& op, class... Args>
  static ResultType<op> call(const Args&... args) {
    using Function = ResultType<op>(std::conditional_t<std::is_same_v<Args, at::Tensor>, const at::Tensor&, Args>...);
    static const auto handle = [] {
      fastsqrtm_version();  // keeps the library in the program
      const std::string name = "fastsqrtm::" + std::string(op.name);
      return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "").template typed<Function>();
    }();
    check(op, handle, {as_tensor(args)...});
    if (!handle.hasKernelForDispatchKey(c10::DispatchKey::Autograd)) check_no_tangent(op, {as_tensor(args)...});
    try {
      return handle.call(args...);
    } catch (const std::runtime_error& error) {  // a library of torch's stable ABI throws no c10::Error
      fail(error.what());
    }
  }
};

/// The op with its first `count` arguments; the schema's defaults are the rest.
template <const Signature& op, class Route, std::size_t count, class = std::make_index_sequence<count>>
struct Overload;

template <const Signature& op, class Route, std::size_t count, std::size_t... i>
struct Overload<op, Route, count, std::index_sequence<i...>> {
  static ResultType<op> call(ArgumentType<op, i>... x) {
    if constexpr (count == op.argument_count)
      return Route::template call<op>(x...);
    else
      return Overload<op, Route, count + 1>::call(x..., ArgumentType<op, count>(op.arguments[count].default_value));
  }
  ResultType<op> operator()(ArgumentType<op, i>... x) const { return call(x...); }
};

/// A line of ops.def as a function object. `optional` counts from 0 to the number of its numbers.
template <const Signature& op, class Route, class = std::make_index_sequence<op.argument_count - op.tensor_count() + 1>>
struct Op;

template <const Signature& op, class Route, std::size_t... optional>
struct Op<op, Route, std::index_sequence<optional...>> : Overload<op, Route, op.tensor_count() + optional>... {
  using Overload<op, Route, op.tensor_count() + optional>::operator()...;
  static constexpr auto call = &Overload<op, Route, op.argument_count>::call;
  static constexpr const Signature& signature = op;
};

}  // namespace detail

namespace ops {

#pragma push_macro("OP")
#pragma push_macro("PASS")
#undef OP
#undef PASS
#define OP(name, ...) inline constexpr detail::Op<signatures::name, detail::Dispatched> name{};
#include "ops.def"
#pragma pop_macro("PASS")
#pragma pop_macro("OP")

/// Calls visit(op) for every op, in the order of ops.def. `op.signature` has its name and its arguments.
template <class Visit>
void for_each(const Visit& visit) {
#pragma push_macro("OP")
#pragma push_macro("PASS")
#undef OP
#undef PASS
#define OP(name, ...) visit(name);
#include "ops.def"
#pragma pop_macro("PASS")
#pragma pop_macro("OP")
}

}  // namespace ops
}  // namespace fastsqrtm
