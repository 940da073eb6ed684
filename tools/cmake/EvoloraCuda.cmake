# The CUDA compiler and runtime. CMAKE_CUDA_COMPILER may name an nvcc that is not in PATH.
if(NOT CMAKE_CUDA_COMPILER)
  find_program(CMAKE_CUDA_COMPILER nvcc HINTS /usr/local/cuda/bin REQUIRED)
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90)  # A100, H100 and H200; newer ones translate the 9.0 PTX
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
add_custom_target(evolora_cuda)  # the .cu files of all modules
