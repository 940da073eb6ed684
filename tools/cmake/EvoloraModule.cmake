# evolora_module(NAME SRCS .. CUDA_SRCS .. HDRS .. DEPS .. LIBS .. PRIVATE_LIBS ..)
#   SRCS          .cc files of the module's own folder
#   CUDA_SRCS     .cu files, compiled with EVOLORA_CUDA only (then the .cc files see EVOLORA_HAVE_CUDA);
#                 they include no LibTorch header: one that does takes a minute
#   HDRS          public headers below include/evolora/<NAME>/
#   DEPS          other modules this one may include; each must be a target already (= lower layer)
#   LIBS          third parties whose types stand in the public headers
#   PRIVATE_LIBS  third parties used by the .cc files only
#
# Each module has its own include root, a symlink build/stage/<m>/evolora/<m> -> include/evolora/<m>,
# so including a header of a module that DEPS does not name fails to compile.
# VERIFY_INTERFACE_HEADER_SETS compiles each public header alone (target all_verify_interface_header_sets).
function(evolora_module NAME)
  cmake_parse_arguments(ARG "" "" "SRCS;CUDA_SRCS;HDRS;DEPS;LIBS;PRIVATE_LIBS" ${ARGN})
  set(target evolora_${NAME})
  foreach(dep IN LISTS ARG_DEPS)
    if(NOT TARGET evolora_${dep})
      message(FATAL_ERROR "module '${NAME}' depends on '${dep}', which is not in a lower layer")
    endif()
    list(APPEND dep_targets evolora_${dep})
  endforeach()

  set(stage "${CMAKE_BINARY_DIR}/stage/${NAME}")
  set(headers "${CMAKE_SOURCE_DIR}/include/evolora/${NAME}")
  file(MAKE_DIRECTORY "${stage}/evolora")
  file(CREATE_LINK "${headers}" "${stage}/evolora/${NAME}" SYMBOLIC)
  list(TRANSFORM ARG_HDRS PREPEND "${stage}/evolora/${NAME}/")

  add_library(${target} STATIC ${ARG_SRCS})
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS "${stage}" FILES ${ARG_HDRS})
  target_include_directories(${target} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(${target}
    PUBLIC ${dep_targets} ${ARG_LIBS}
    PRIVATE evolora_build ${ARG_PRIVATE_LIBS})
  set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
  if(EVOLORA_CUDA AND ARG_CUDA_SRCS)
    evolora_cuda_objects(${target} ${ARG_CUDA_SRCS})
  endif()
endfunction()

# Compiles .cu files into TARGET; the target `evolora_cuda` builds those of all modules and no more.
function(evolora_cuda_objects TARGET)
  add_library(${TARGET}_cuda OBJECT ${ARGN})
  target_include_directories(${TARGET}_cuda PRIVATE
    "${CMAKE_CURRENT_SOURCE_DIR}" $<TARGET_PROPERTY:${TARGET},INTERFACE_INCLUDE_DIRECTORIES>)
  target_link_libraries(${TARGET}_cuda PRIVATE CUDA::cudart)
  target_sources(${TARGET} PRIVATE $<TARGET_OBJECTS:${TARGET}_cuda>)
  target_link_libraries(${TARGET} PRIVATE CUDA::cudart)
  target_compile_definitions(${TARGET} PRIVATE EVOLORA_HAVE_CUDA=1)
  add_dependencies(evolora_cuda ${TARGET}_cuda)
endfunction()

# evolora_test(NAME SRCS .. DEPS <modules> LIBS .. LABELS cpu|gpu|slow|e2e TIMEOUT seconds DATA NAME=VALUE ..)
# One GoogleTest binary, one ctest entry. DATA entries become environment variables of the test.
# Threads wait passively: tests run side by side, and spinning ones take each other's processors.
# A test of the label gpu that skips without a device shows as skipped, not as passed.
function(evolora_test NAME)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LIBS;LABELS;DATA" ${ARGN})
  set(target ${NAME}_test)
  add_executable(${target} ${ARG_SRCS})
  foreach(dep IN LISTS ARG_DEPS)
    target_link_libraries(${target} PRIVATE evolora_${dep})
  endforeach()
  target_link_libraries(${target} PRIVATE evolora_build evolora_test_support ${ARG_LIBS})
  if(NOT ARG_LABELS)
    set(ARG_LABELS cpu)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600) # ends a hang; a busy machine may take minutes for what takes seconds
  endif()
  add_test(NAME ${NAME} COMMAND ${target})
  set_tests_properties(${NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    ENVIRONMENT "EVOLORA_SOURCE_DIR=${CMAKE_SOURCE_DIR};OMP_WAIT_POLICY=passive;${ARG_DATA}")
  if("gpu" IN_LIST ARG_LABELS)
    set_tests_properties(${NAME} PROPERTIES SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
  endif()
endfunction()
