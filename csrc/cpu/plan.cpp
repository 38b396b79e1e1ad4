#include "cpu/plan.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#ifdef FASTSQRTM_HAVE_X86_ISAS
#include <cpuid.h>
#endif

#include "cpu/matrix/layout.h"

namespace fastsqrtm {
namespace {

CpuCapability find_capability() {
#ifdef FASTSQRTM_HAVE_X86_ISAS
  const char* wanted = std::getenv("FASTSQRTM_CPU_CAPABILITY");
  const auto allowed = [&](const char* name) { return wanted == nullptr || std::strcmp(wanted, name) == 0; };
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (avx512 && allowed("avx512")) return {"avx512", 64};
  if (avx2 && (allowed("avx2") || allowed("avx512"))) return {"avx2", 32};
#endif
  return {"baseline", 16};
}

// A thread is woken for no less than this many n^3: some ten microseconds of work, and on a busy machine waking it
// costs far more.
constexpr int64_t smallest_share = 1 << 14;

// What a thread is worth that shares a matrix: half of the smallest one that two share with a gain. The steps of a
// flat matrix are short.
constexpr double smallest_part = 192 * 192 * 192 / 2;

}  // namespace

const CpuCapability& cpu_capability() {
  static const CpuCapability capability = find_capability();
  return capability;
}

std::string cpu_family() {
#ifdef FASTSQRTM_HAVE_X86_ISAS
  unsigned a, vendor[3], c, d;
  if (__get_cpuid(0, &a, &vendor[0], &vendor[2], &vendor[1]) && __get_cpuid(1, &a, &d, &c, &d)) {
    const unsigned family = a >> 8 & 0xf, extended = a >> 20 & 0xff;
    const std::string name(reinterpret_cast<const char*>(vendor), sizeof(vendor));
    return name + ' ' + std::to_string(family == 0xf ? family + extended : family);
  }
#endif
  return "unknown";
}

CpuPlan plan_cpu(int64_t batch, int64_t m, int64_t n, int element_bytes, int threads, const Demand& demand) {
  const double work = double(m) * n * std::min(m, n);
  const bool large = m * n * element_bytes >= smallest_shared_bytes;
  const int team = large ? int(std::clamp(work / smallest_part, 1.0, double(threads))) : 1;
  // The matrices left over take the time of one if each has a thread, else as many parts of it as there are.
  const int64_t left = batch % threads, alone = left < team ? batch - left : batch;
  const bool one_by_one = alone <= demand.few * threads;
  const int64_t runs = one_by_one ? alone : (alone + demand.matrices - 1) / demand.matrices;
  const int64_t worth = std::min(runs, static_cast<int64_t>(1 + alone * work / smallest_share));
  const int workers = int(std::clamp<int64_t>(worth, 1, threads));
  const Path path = demand.matrices > 1 ? Path::tiny : Path::block;
  const int64_t bytes = workers * round_up(demand.workspace_bytes, 64);
  return {path, cpu_capability().name, alone, batch - alone, threads, team, workers, bytes};
}

}  // namespace fastsqrtm
