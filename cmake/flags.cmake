# fastsqrtm_flags: the compile flags of all our C++ files.
include(CheckCXXCompilerFlag)

add_library(fastsqrtm_flags INTERFACE)
target_include_directories(fastsqrtm_flags INTERFACE ${CMAKE_CURRENT_SOURCE_DIR}/csrc
                           ${CMAKE_CURRENT_SOURCE_DIR}/csrc/include ${CMAKE_CURRENT_SOURCE_DIR}/fastsqrtm
                           ${CMAKE_CURRENT_BINARY_DIR}/generated)

# Contraction and errno-free libm cost no accuracy. Never -ffast-math: NaN and Inf are part of the input policy.
foreach(flag -Wall -Wextra -ffp-contract=fast -fno-math-errno)
  target_compile_options(fastsqrtm_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${flag}>)
endforeach()

# Unique symbols are merged across every library of a process, against -fvisibility=hidden.
check_cxx_compiler_flag(-fno-gnu-unique has_no_gnu_unique)
if(has_no_gnu_unique)
  target_compile_options(fastsqrtm_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fno-gnu-unique>
                                                   $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fno-gnu-unique>)
endif()

if(FASTSQRTM_WERROR)
  target_compile_options(fastsqrtm_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>
                                                   $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
if(FASTSQRTM_SANITIZE)
  set(sanitizers -fsanitize=${FASTSQRTM_SANITIZE} -fno-sanitize-recover=all)
  target_compile_options(fastsqrtm_flags INTERFACE ${sanitizers} -fno-omit-frame-pointer -g -O1)
  target_link_options(fastsqrtm_flags INTERFACE ${sanitizers})
endif()
