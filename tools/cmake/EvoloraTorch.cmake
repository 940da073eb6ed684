# LibTorch from the wheel's folder as own imported targets: find_package(Torch) of a CUDA wheel insists
# on the toolkit, which a CPU build does not need. A CPU build links torch_cpu and c10 only; a CUDA build links the
# CUDA libraries too, which at run time need the wheels nvidia-nvshmem-cu13, nvidia-cusparselt-cu13,
# nvidia-cudnn-cu13, nvidia-nccl-cu13 and nvidia-cufile, or the same from the system.
if(NOT EVOLORA_TORCH_ROOT)
  file(GLOB candidates "${CMAKE_SOURCE_DIR}/.deps/venv/lib/python3*/site-packages/torch")
  list(LENGTH candidates count)
  if(count EQUAL 0)
    message(FATAL_ERROR "LibTorch not found: run tools/setup.sh, or set EVOLORA_TORCH_ROOT, or EVOLORA_TORCH=OFF")
  endif()
  list(GET candidates 0 EVOLORA_TORCH_ROOT)
endif()

add_library(evolora_torch INTERFACE)
target_include_directories(evolora_torch SYSTEM INTERFACE "${EVOLORA_TORCH_ROOT}/include")
target_compile_definitions(evolora_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
set(torch_libraries c10 torch_cpu)
if(EVOLORA_CUDA)
  list(APPEND torch_libraries c10_cuda torch_cuda)
  # Nothing names a symbol of torch_cuda: its kernels register themselves when it is loaded.
  target_link_options(evolora_torch INTERFACE "LINKER:--no-as-needed")
endif()
foreach(lib IN LISTS torch_libraries)
  add_library(evolora_torch_${lib} SHARED IMPORTED)
  set_target_properties(evolora_torch_${lib} PROPERTIES
    IMPORTED_LOCATION "${EVOLORA_TORCH_ROOT}/lib/lib${lib}.so")
  target_link_libraries(evolora_torch INTERFACE evolora_torch_${lib})
endforeach()
target_link_libraries(evolora_torch INTERFACE Threads::Threads)
target_link_options(evolora_torch INTERFACE "LINKER:-rpath,${EVOLORA_TORCH_ROOT}/lib"
  "LINKER:--allow-shlib-undefined")

# at::parallel_for is a header template around an OpenMP pragma: without -fopenmp it runs on one thread.
# The runtime is the wheel's own libgomp, so that a process never holds two.
target_compile_options(evolora_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
target_link_libraries(evolora_torch INTERFACE "${EVOLORA_TORCH_ROOT}/lib/libgomp.so.1")
