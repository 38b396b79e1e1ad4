# torch_stable: the stable-ABI headers and the two libraries they need; torch_root.
include(cmake/fastsqrtmTorch.cmake)
fastsqrtm_find_torch(torch_root FASTSQRTM_TORCH_VERSION)
set(python_default OFF)
if(NOT torch_root OR Python_EXECUTABLE)
  set(python_default ON)
endif()
option(FASTSQRTM_PYTHON "Build fastsqrtm._C for the Python package (off where CMAKE_PREFIX_PATH names a libtorch)"
       ${python_default})
if(FASTSQRTM_PYTHON)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
  if(NOT torch_root)
    execute_process(COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/build_tools/target_environment.py
                    OUTPUT_VARIABLE python_torch OUTPUT_STRIP_TRAILING_WHITESPACE)
    fastsqrtm_find_torch(torch_root FASTSQRTM_TORCH_VERSION ${python_torch})
  endif()
endif()

# The oldest torch that a build loads into, whatever torch it was built against.
set(FASTSQRTM_TORCH_OLDEST 2.11)
if(NOT torch_root)
  message(FATAL_ERROR "fastsqrtm: torch >= ${FASTSQRTM_TORCH_OLDEST} needed to build, there is none in "
                      "FASTSQRTM_TORCH='${FASTSQRTM_TORCH}', CMAKE_PREFIX_PATH='${CMAKE_PREFIX_PATH}' or the environment "
                      "of Python '${Python_EXECUTABLE}'.\n"
                      "Install torch there, or pass -DFASTSQRTM_TORCH=<directory that holds torch's include and lib>.")
endif()
message(STATUS "fastsqrtm: building against torch ${FASTSQRTM_TORCH_VERSION} in ${torch_root}")

add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE ${torch_root}/include)
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=0x020b000000000000)
foreach(name torch_cpu c10)
  set(library ${torch_root}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}${name}${CMAKE_SHARED_LIBRARY_SUFFIX})
  target_link_libraries(torch_stable INTERFACE ${library})
endforeach()
