# slipstream_module(NAME [DEPS module...] [LIBS library...] [EXCLUDE expression])
#   One folder of src/ becomes the static library slipstream_NAME from every *.cc below it.
#   *_test.cc become the GoogleTest program NAME_test; *_fuzz.cc belong to tests/fuzz.
#   DEPS are modules of lower layers; LIBS are third-party libraries. Sources that match the
#   expression EXCLUDE are left out.
function(slipstream_module name)
  cmake_parse_arguments(ARG "" "EXCLUDE" "DEPS;LIBS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  if(ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "${ARG_EXCLUDE}")
  endif()
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz|bench)\\.cc$|/main\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")

  set(kind PUBLIC)
  if(sources)
    add_library(slipstream_${name} STATIC ${sources})
  else()
    add_library(slipstream_${name} INTERFACE)
    set(kind INTERFACE)
  endif()
  target_link_libraries(slipstream_${name} ${kind} slipstream_flags ${ARG_LIBS})
  foreach(dep ${ARG_DEPS})
    target_link_libraries(slipstream_${name} ${kind} slipstream_${dep})
  endforeach()

  if(SLIPSTREAM_TESTS AND tests)
    find_package(GTest REQUIRED)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE slipstream_${name} GTest::gtest GTest::gtest_main)
    target_compile_definitions(${name}_test PRIVATE
      SLIPSTREAM_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
    # Suites named ...Slow are tools/run_tests.py --slow's.
    add_test(NAME ${name} COMMAND ${name}_test --gtest_brief=1 --gtest_filter=-*Slow.*)
  endif()
endfunction()
