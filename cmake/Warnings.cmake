# Warnings are errors. -Wconversion is on because an integer that shrinks between a file and a
# kernel is a security hole, not a style question. Floating-point contraction is off: kernels ask
# for FMA by name, so results do not depend on what a compiler happens to fuse.
add_library(slipstream_flags INTERFACE)
target_compile_options(slipstream_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror
  -ffp-contract=off -fno-math-errno -g1)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 reports -Wrestrict on `"text" + std::string` at -O3, which is correct code.
  target_compile_options(slipstream_flags INTERFACE -Wno-restrict)
else()
  # libstdc++ 12's own std::stable_sort calls what libstdc++ 12 deprecates; clang reports it.
  target_compile_options(slipstream_flags INTERFACE -Wno-deprecated-declarations)
endif()
target_include_directories(slipstream_flags INTERFACE
  ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
find_package(Threads REQUIRED)
target_link_libraries(slipstream_flags INTERFACE Threads::Threads)

if(SLIPSTREAM_SANITIZE)
  target_compile_options(slipstream_flags INTERFACE -fsanitize=${SLIPSTREAM_SANITIZE}
    -fno-omit-frame-pointer)
  target_link_options(slipstream_flags INTERFACE -fsanitize=${SLIPSTREAM_SANITIZE})
  if(SLIPSTREAM_SANITIZE MATCHES "undefined")
    target_compile_options(slipstream_flags INTERFACE -fno-sanitize-recover=undefined)
  endif()
else()
  # The shipped binary needs only libc and libm.
  target_link_options(slipstream_flags INTERFACE -static-libstdc++ -static-libgcc)
endif()
if(SLIPSTREAM_FUZZ)
  target_compile_options(slipstream_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
find_program(SLIPSTREAM_MOLD mold)
if(SLIPSTREAM_MOLD AND NOT SLIPSTREAM_SANITIZE)
  target_link_options(slipstream_flags INTERFACE -fuse-ld=mold)
endif()
