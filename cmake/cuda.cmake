# The CUDA half: whether to build it (FASTSQRTM_CUDA), for which chips (FASTSQRTM_CUDA_ARCHS), and the library itself.
# Sets FASTSQRTM_CUDA_BUILT to the architectures built for, or to nothing.
set(FASTSQRTM_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO, ON or OFF")
set(FASTSQRTM_CUDA_ARCHS "" CACHE STRING "Compute capabilities such as 8.0;9.0 (empty: the default list)")
set(default_archs 7.5 8.0 8.6 8.9 9.0 10.0 12.0)
set(FASTSQRTM_CUDA_BUILT "")

find_program(FASTSQRTM_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
             PATHS /usr/local/cuda/bin)
file(GLOB visible_gpus /dev/nvidia[0-9]*)
set(cuda_missing "")
if(NOT EXISTS ${torch_root}/lib/libtorch_cuda.so)
  set(cuda_missing "this torch is not a CUDA build")
elseif(NOT FASTSQRTM_NVCC)
  set(cuda_missing "nvcc is not found")
elseif(FASTSQRTM_CUDA STREQUAL "AUTO" AND NOT FASTSQRTM_CUDA_ARCHS AND NOT visible_gpus)
  set(cuda_missing "no GPU is visible; name architectures in FASTSQRTM_CUDA_ARCHS, or set FASTSQRTM_CUDA=ON")
endif()
if(FASTSQRTM_CUDA STREQUAL "OFF")
  message(STATUS "fastsqrtm: no CUDA kernels, FASTSQRTM_CUDA=OFF")
  return()
elseif(cuda_missing AND FASTSQRTM_CUDA STREQUAL "AUTO")
  message(STATUS "fastsqrtm: no CUDA kernels, ${cuda_missing}")
  return()
elseif(cuda_missing)
  message(FATAL_ERROR "fastsqrtm: FASTSQRTM_CUDA=${FASTSQRTM_CUDA}, but ${cuda_missing}")
endif()

# Real code for every chip asked for that this nvcc knows, and PTX of the last for those to come.
execute_process(COMMAND ${FASTSQRTM_NVCC} --list-gpu-code OUTPUT_VARIABLE known_codes)
set(wanted ${FASTSQRTM_CUDA_ARCHS})
if(NOT wanted)
  set(wanted ${default_archs})
endif()
string(REPLACE " " ";" wanted "${wanted}")
set(CMAKE_CUDA_ARCHITECTURES "")
foreach(arch IN LISTS wanted)
  string(REPLACE "." "" code ${arch})
  if(known_codes MATCHES "sm_${code}\n")
    list(APPEND CMAKE_CUDA_ARCHITECTURES ${code}-real)
    list(APPEND FASTSQRTM_CUDA_BUILT ${arch})
    set(last_code ${code})
  elseif(FASTSQRTM_CUDA_ARCHS)
    message(FATAL_ERROR "fastsqrtm: ${FASTSQRTM_NVCC} does not know architecture ${arch}")
  endif()
endforeach()
list(APPEND CMAKE_CUDA_ARCHITECTURES ${last_code}-virtual)

set(CMAKE_CUDA_COMPILER ${FASTSQRTM_NVCC})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
  message(FATAL_ERROR "fastsqrtm: nvcc 12.4 or newer is needed, found ${CMAKE_CUDA_COMPILER_VERSION}")
endif()
message(STATUS "fastsqrtm: CUDA kernels for ${FASTSQRTM_CUDA_BUILT} with nvcc ${CMAKE_CUDA_COMPILER_VERSION}")

# cuBLAS and cuSOLVER from a full toolkit or from the wheels that a CUDA torch brings along; nvcc alone has neither.
string(REGEX MATCH "^[0-9]+" cuda_major ${CMAKE_CUDA_COMPILER_VERSION})
set(cuda_places ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} ${torch_root}/../nvidia/cu${cuda_major}/include
                ${torch_root}/../nvidia/cublas/include ${torch_root}/../nvidia/cusolver/include
                ${torch_root}/../nvidia/cusparse/include)
add_library(fastsqrtm_cuda_libraries INTERFACE)
# First, because the wheels also hold a cuda_runtime_api.h, without all of its includes.
target_include_directories(fastsqrtm_cuda_libraries SYSTEM INTERFACE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
foreach(name cublas cusolver)
  string(REPLACE "cublas" "cublas_v2.h" header ${name})
  string(REPLACE "cusolver" "cusolverDn.h" header ${header})
  unset(include CACHE)
  find_path(include ${header} PATHS ${cuda_places} NO_DEFAULT_PATH)
  file(GLOB library ${include}/../lib/lib${name}.so* ${include}/../lib64/lib${name}.so*)
  if(NOT include OR NOT library)
    message(FATAL_ERROR "fastsqrtm: ${header} and lib${name}.so are not found: install the CUDA toolkit, or "
                        "nvidia-${name} beside torch")
  endif()
  list(GET library 0 library)
  target_include_directories(fastsqrtm_cuda_libraries SYSTEM INTERFACE ${include})
  target_link_libraries(fastsqrtm_cuda_libraries INTERFACE ${library})
endforeach()

# Every pass is a source file of its own, so that they compile in parallel.
set(pass_sources "")
foreach(pass IN LISTS FASTSQRTM_PASSES)
  string(REPLACE "," ";" pass ${pass})
  list(GET pass 0 type)
  list(GET pass 1 file)
  set(source ${FASTSQRTM_GENERATED}/cuda_passes/${type}.cu)
  file(CONFIGURE OUTPUT ${source} @ONLY CONTENT
       "#include \"cuda/launch.cuh\"\n#include \"cuda/passes/${file}.cuh\"\nFASTSQRTM_INSTANTIATE(${type})\n")
  list(APPEND pass_sources ${source})
endforeach()
add_library(fastsqrtm_cuda SHARED csrc/cuda/ops.cpp csrc/cuda/launch.cu csrc/cuda/library/library.cu ${pass_sources})
target_include_directories(fastsqrtm_cuda PRIVATE ${FASTSQRTM_GENERATED})
# The stream and the BLAS handle come through torch's C shim, whose CUDA part is declared under USE_CUDA.
target_compile_definitions(fastsqrtm_cuda PRIVATE USE_CUDA=1)
target_link_libraries(fastsqrtm_cuda PRIVATE fastsqrtm_flags fastsqrtm_cuda_libraries torch_stable
                                             ${torch_root}/lib/libtorch_cuda.so)
target_compile_features(fastsqrtm_cuda PRIVATE cuda_std_17)
# The libraries of NVIDIA's wheels are next to torch. Python has loaded them by then, a C++ program may not have.
set(cuda_wheels "$ORIGIN/../../nvidia/cu${cuda_major}/lib" "$ORIGIN/../../nvidia/cublas/lib"
                "$ORIGIN/../../nvidia/cusolver/lib" "$ORIGIN/../../nvidia/cusparse/lib")
set_target_properties(fastsqrtm_cuda PROPERTIES INSTALL_RPATH "$ORIGIN/../../torch/lib;${cuda_wheels}"
                                                CUDA_VISIBILITY_PRESET hidden)
install(TARGETS fastsqrtm_cuda LIBRARY DESTINATION lib COMPONENT python)
