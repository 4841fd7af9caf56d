// Functions of libraries that are loaded at run time.
#pragma once

#include <dlfcn.h>

namespace slipstream {

// Whether the library of dlopen() has a function of this name; `function` is then it.
template <typename Function>
bool find_function(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

}  // namespace slipstream
