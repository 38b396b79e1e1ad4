# Writes one text about this build twice: build_info.json, readable when no library loads, and build_info.h for _C.
set(FASTSQRTM_BUILD_INFO_DIR ${CMAKE_CURRENT_BINARY_DIR}/generated)
string(REPLACE ";" "\", \"" isas_json "${FASTSQRTM_CPU_ISAS}")
set(cuda_json null)
if(FASTSQRTM_CUDA_BUILT)
  string(REPLACE ";" "\", \"" cuda_json "${FASTSQRTM_CUDA_BUILT}")
  set(cuda_json "{\"nvcc\": \"${CMAKE_CUDA_COMPILER_VERSION}\", \"archs\": [\"${cuda_json}\"]}")
endif()
configure_file(cmake/build_info.json.in ${FASTSQRTM_BUILD_INFO_DIR}/build_info.json @ONLY)
file(READ ${FASTSQRTM_BUILD_INFO_DIR}/build_info.json build_info_json)
file(CONFIGURE OUTPUT ${FASTSQRTM_BUILD_INFO_DIR}/build_info.h @ONLY
     CONTENT "constexpr char build_info_json[] = R\"json(@build_info_json@)json\";\n")
