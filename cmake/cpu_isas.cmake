# The instruction sets that csrc/cpu/kernels.cpp is compiled for. Portable code is enough outside x86-64.
set(FASTSQRTM_CPU_ISAS baseline)
set(FASTSQRTM_CPU_FLAGS_baseline "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  list(APPEND FASTSQRTM_CPU_ISAS avx2 avx512)
  set(FASTSQRTM_CPU_FLAGS_avx2 -mavx2 -mfma)
  set(FASTSQRTM_CPU_FLAGS_avx512 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512)
  target_compile_definitions(fastsqrtm_flags INTERFACE FASTSQRTM_HAVE_X86_ISAS=1)
endif()
