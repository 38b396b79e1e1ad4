# torch_stable: the stable-ABI headers and the two libraries they need. find_package(Torch) is not used: it brings every
# flag and library of torch's own build, and it wants CUDA where torch has it.
if(FASTSQRTM_TORCH)
  set(torch_root ${FASTSQRTM_TORCH})
else()
  execute_process(COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/build_tools/target_environment.py
                  OUTPUT_VARIABLE torch_root OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()

set(torch_version_file ${torch_root}/include/torch/headeronly/version.h)
if(NOT torch_root OR NOT EXISTS ${torch_version_file})
  message(FATAL_ERROR "fastsqrtm: torch >= 2.11 needed to build, found '${torch_root}' for ${Python_EXECUTABLE}.\n"
                      "Install torch there, or pass -DFASTSQRTM_TORCH=<directory that holds torch's include and lib>.")
endif()
file(STRINGS ${torch_version_file} torch_version_line REGEX "\"[0-9.]+\"")
string(REGEX MATCH "[0-9.]+" FASTSQRTM_TORCH_VERSION "${torch_version_line}")
message(STATUS "fastsqrtm: building against torch ${FASTSQRTM_TORCH_VERSION} in ${torch_root}")

# The oldest torch that a build loads into, whatever torch it was built against.
set(FASTSQRTM_TORCH_OLDEST 2.11)

add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE ${torch_root}/include)
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=0x020b000000000000)
foreach(name torch_cpu c10)
  set(library ${torch_root}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}${name}${CMAKE_SHARED_LIBRARY_SUFFIX})
  target_link_libraries(torch_stable INTERFACE ${library})
endforeach()
