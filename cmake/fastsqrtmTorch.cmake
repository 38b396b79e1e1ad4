# Finds torch, for our own build and for programs that link to us. find_package(Torch) is not used: it adds every flag
# and library of torch's own build, and needs a whole CUDA toolkit where torch has CUDA.

# fastsqrtm_find_torch(<root> <version> [<directory>...]): FASTSQRTM_TORCH, else the Torch that find_package(Torch) found
# before (Torch_DIR), else the one it would find in CMAKE_PREFIX_PATH, else in the directories. Empty without one.
function(fastsqrtm_find_torch root version)
  find_path(config TorchConfig.cmake PATH_SUFFIXES share/cmake/Torch Torch
            NO_CACHE NO_SYSTEM_ENVIRONMENT_PATH NO_CMAKE_SYSTEM_PATH)
  set(places ${ARGN})
  if(FASTSQRTM_TORCH)
    set(places ${FASTSQRTM_TORCH})
  elseif(Torch_DIR)
    set(places ${Torch_DIR}/../../..)
  elseif(config)
    set(places ${config}/../../..)
  endif()
  unset(${root} PARENT_SCOPE)
  unset(${version} PARENT_SCOPE)
  foreach(place IN LISTS places)
    get_filename_component(place ${place} ABSOLUTE)
    set(file ${place}/include/torch/headeronly/version.h)
    if(EXISTS ${file})
      file(STRINGS ${file} line REGEX "\"[0-9.]+\"")
      string(REGEX MATCH "[0-9.]+" number "${line}")
      set(${root} ${place} PARENT_SCOPE)
      set(${version} ${number} PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()
