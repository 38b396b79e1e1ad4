// The passes as the emulation tests them: the ways to call each of them, its inputs and its expected results.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cuda/pass.h"
#include "reference.h"

namespace emulation {

using namespace fastsqrtm;
using namespace fastsqrtm::cuda;
using reference::Matrix;

struct Setting {
  int degree = 5;
  int iterations = 8;
  int teams = 0;               // of one matrix; 0: the plan's
  int matrices_per_block = 0;  // 0: the plan's
  bool large = false;          // on the path for large matrices
  int64_t chunk = 0;           // on that path; 0: as many as the workspace allows
  bool by_rows = false;        // with the strides that a launch on the device would see
};

// The mathematics behind a pass, named after the unit that its loop counts.
enum class Method { shifts, fractions, powers, steps, iterations, accurate, direct };

struct Case {
  std::string name;  // the pass's in ops.def, and the way it is called
  std::string pass;
  Method method;
  Power power;
  bool is_root;  // of one matrix; else a gradient or a Lyapunov equation
  bool symmetric_result;
  bool distinct;         // takes a path through the kernel that no other case of the pass takes
  std::vector<int> in;   // the inputs of the pass that are present, in the order of `inputs`
  std::vector<int> out;  // the results that are asked for
  int number = -1;       // the result that is one number a matrix, the last of `out`

  // The inputs of one matrix. condition > 0: of the matrix whose roots they are, or of B; symmetric_c: of a right side.
  std::function<std::vector<Matrix>(int n, double scale, double condition, bool symmetric_c)> inputs;
  // The results one after the other.
  std::function<Matrix(const std::vector<Matrix>& inputs, int n, const Setting&)> reference;

  // The requirements of the pass for the plan and for the workspace, and its run.
  std::function<Plan(int64_t batch, int64_t n, int element_bytes, int terms, const DeviceLimits&)> plan;
  std::function<int(const Setting&, int element_bytes)> terms;
  std::function<int(const Shape&, int teams)> shared_elements;
  std::function<int(const Shape&)> max_threads;
  std::function<int64_t(const Shape&, const Problem&)> kept_elements;
  std::function<Operands(const Operands&)> by_rows;
  std::function<int64_t(const Setting&, int64_t batch, int64_t n, int element_bytes)> large_chunk,
      large_workspace_bytes;
  std::function<void(const Setting&, const Operands&, const Plan&)> run_in_blocks;
  std::function<void(const Setting&, const Operands&, int64_t chunk)> run_large;

  bool is_accurate() const { return method == Method::accurate; }
  bool is_inverse() const { return power == Power::minus_half; }
  bool is_number(int result) const { return result == number; }
  bool both_roots() const { return out.size() > 1 && number < 0; }
  bool is_exact_gradient() const {
    return !is_root && (method == Method::shifts || method == Method::fractions || method == Method::powers ||
                        method == Method::steps);
  }
};

// Every pass of ops.def on square matrices in every way to call it. A pass that cases.cpp does not know does not
// compile.
const std::vector<Case>& all_cases();

// Checks the QR of m x n matrices, in the ways to call it. Returns the number of failures.
int check_rectangular(const std::string& dtype, int m, int n, bool in_global_memory);

// Matrices from one generator, which starts from the same state again after restart_random.
void restart_random();
Matrix random_matrix(int n);
// Eigenvalues at least 0.02 of the mean: M M^T / n + 0.02 I.
Matrix random_spd(int n, double scale = 1);

}  // namespace emulation
