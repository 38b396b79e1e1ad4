# Where torch is, for our own build and for programs that link to us. find_package(Torch) is not used: it brings every
# flag and library of torch's own build, and wants a whole CUDA toolkit where torch has CUDA.

# fastsqrtm_find_torch(<root> <version> [<directory>...]): FASTSQRTM_TORCH, else the package Torch as CMake finds it
# (Torch_DIR, CMAKE_PREFIX_PATH), else the first of the directories that holds torch. Empty without one.
function(fastsqrtm_find_torch root version)
  find_path(config TorchConfig.cmake HINTS ${Torch_DIR} PATH_SUFFIXES share/cmake/Torch Torch
            NO_CACHE NO_SYSTEM_ENVIRONMENT_PATH NO_CMAKE_SYSTEM_PATH)
  if(config)
    get_filename_component(config ${config}/../../.. ABSOLUTE)
  endif()
  unset(${root} PARENT_SCOPE)
  unset(${version} PARENT_SCOPE)
  if(FASTSQRTM_TORCH)
    set(ARGN ${FASTSQRTM_TORCH})
  elseif(config)
    set(ARGN ${config})
  endif()
  foreach(place IN LISTS ARGN)
    set(file ${place}/include/torch/headeronly/version.h)
    if(EXISTS ${file})
      file(STRINGS ${file} line REGEX "\"[0-9.]+\"")
      string(REGEX MATCH "[0-9.]+" number "${line}")
      get_filename_component(place ${place} ABSOLUTE)
      set(${root} ${place} PARENT_SCOPE)
      set(${version} ${number} PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()
