# The passes of ops.def, read here so that no other file has to list them.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS fastsqrtm/ops.def)
file(STRINGS fastsqrtm/ops.def pass_lines REGEX "^PASS\\(")
set(FASTSQRTM_PASSES "")  # Type,file
foreach(line IN LISTS pass_lines)
  string(REGEX MATCH "\\(([A-Za-z]+), ([a-z_]+)\\)" _ "${line}")
  list(APPEND FASTSQRTM_PASSES "${CMAKE_MATCH_1},${CMAKE_MATCH_2}")
endforeach()

set(FASTSQRTM_GENERATED ${CMAKE_CURRENT_BINARY_DIR}/generated)
set(cpu_passes "// Made from fastsqrtm/ops.def.\n")
foreach(pass IN LISTS FASTSQRTM_PASSES)
  string(REGEX REPLACE ".*," "" file "${pass}")
  string(APPEND cpu_passes "#include \"cpu/passes/${file}.h\"\n")
endforeach()
file(CONFIGURE OUTPUT ${FASTSQRTM_GENERATED}/cpu_passes.h CONTENT "${cpu_passes}" @ONLY)
