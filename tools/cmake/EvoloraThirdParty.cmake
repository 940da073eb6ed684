# Third parties as targets. Each is linked PRIVATE by the one module that uses it, so that its include
# paths do not travel. The exceptions are Abseil and nlohmann-json, whose types core's headers use.
find_package(absl REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(Threads REQUIRED)
find_package(HDF5 REQUIRED COMPONENTS C)
find_package(SQLite3 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(RE2 REQUIRED IMPORTED_TARGET re2)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)

add_library(evolora_hdf5 INTERFACE)
target_include_directories(evolora_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
target_link_libraries(evolora_hdf5 INTERFACE ${HDF5_C_LIBRARIES})

if(EVOLORA_TORCH)
  include(EvoloraTorch)
endif()
if(EVOLORA_TESTS)
  find_package(GTest REQUIRED)
endif()
