# slipstream_cuda_library(NAME source...)
#   Kernels, and host code that needs CUDA's headers, as a static library. Real sm_90a code only;
#   CUDA's runtime is linked in, so the binary starts without a GPU.
function(slipstream_cuda_library name)
  find_package(CUDAToolkit 13.0 REQUIRED)
  add_library(${name} STATIC ${ARGN})
  set_target_properties(${name} PROPERTIES CUDA_ARCHITECTURES 90a-real CUDA_STANDARD 17
    CUDA_EXTENSIONS OFF)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  target_compile_options(${name} PRIVATE -O3 --compress-mode=size)
  target_link_libraries(${name} PUBLIC CUDA::cudart_static ${CMAKE_DL_LIBS} rt)
endfunction()

if(SLIPSTREAM_CUDA)
  enable_language(CUDA)
  # CMake 3.25 knows no C++20 for nvcc 13; the highest it knows is made to mean it.
  set(CMAKE_CUDA17_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
