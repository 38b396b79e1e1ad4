# The CMake package, for programs: in the build tree, and installed next to the headers and libraries.
include(CMakePackageConfigHelpers)
set(directory ${CMAKE_CURRENT_BINARY_DIR})
write_basic_package_version_file(${directory}/fastsqrtmConfigVersion.cmake COMPATIBILITY SameMinorVersion)
configure_file(cmake/fastsqrtmTorch.cmake ${directory}/fastsqrtmTorch.cmake COPYONLY)

# The headers include ops.def, which is next to them once installed, and next to the Python sources in the tree.
set(package_include ${CMAKE_CURRENT_SOURCE_DIR}/csrc/include ${CMAKE_CURRENT_SOURCE_DIR}/fastsqrtm)
set(package_lib ${directory})
set(package_torch ${torch_root})
configure_file(cmake/fastsqrtmConfig.cmake.in ${directory}/fastsqrtmConfig.cmake @ONLY)

set(package_include "\${CMAKE_CURRENT_LIST_DIR}/../../../include")
set(package_lib "\${CMAKE_CURRENT_LIST_DIR}/../../../lib")
if(FASTSQRTM_RELOCATABLE)
  set(package_torch "")
endif()
configure_file(cmake/fastsqrtmConfig.cmake.in ${directory}/installed/fastsqrtmConfig.cmake @ONLY)

install(DIRECTORY csrc/include/fastsqrtm DESTINATION include COMPONENT python)
install(FILES fastsqrtm/ops.def DESTINATION include/fastsqrtm COMPONENT python)
install(FILES ${directory}/installed/fastsqrtmConfig.cmake ${directory}/fastsqrtmConfigVersion.cmake
              cmake/fastsqrtmTorch.cmake DESTINATION share/cmake/fastsqrtm COMPONENT python)
