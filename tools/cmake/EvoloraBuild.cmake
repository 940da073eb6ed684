# Language level, warnings, sanitizers, launcher and linker: one INTERFACE target, `evolora_build`,
# that every module and test links; no global flags are edited.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CUDA_STANDARD 17)  # CMake 3.25 knows no C++20 dialect for nvcc 13
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

find_program(EVOLORA_CCACHE ccache)
if(EVOLORA_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER "${EVOLORA_CCACHE}")
  # A precompiled header is cacheable only with these two allowances; the rest keeps hits across folders.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND};-E;env;CCACHE_SLOPPINESS=pch_defines,time_macros;CCACHE_BASEDIR=${CMAKE_SOURCE_DIR};CCACHE_NOHASHDIR=1;${EVOLORA_CCACHE}")
endif()

add_library(evolora_build INTERFACE)
target_compile_options(evolora_build INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-missing-field-initializers -fno-math-errno>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:-O2>)
# Faster than GNU ld. Not mold: Debian 12's 1.10 now and then never comes back, or lays out a program that
# the loader refuses.
find_program(EVOLORA_GOLD ld.gold)
if(EVOLORA_GOLD)
  target_link_options(evolora_build INTERFACE -fuse-ld=gold)
endif()
if(EVOLORA_SANITIZER)
  target_compile_options(evolora_build INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${EVOLORA_SANITIZER} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(evolora_build INTERFACE -fsanitize=${EVOLORA_SANITIZER})
endif()
