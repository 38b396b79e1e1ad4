# The pybind11 of the building interpreter. Its directory changes with every isolated build, so it is never cached.
execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
                OUTPUT_VARIABLE pybind11_cmake_dir OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT pybind11_cmake_dir)
  message(FATAL_ERROR "fastsqrtm: pybind11 is needed to build: ${Python_EXECUTABLE} -m pip install pybind11")
endif()
set(PYBIND11_FINDPYTHON ON)
unset(pybind11_DIR CACHE)
find_package(pybind11 CONFIG REQUIRED PATHS ${pybind11_cmake_dir} NO_DEFAULT_PATH)
