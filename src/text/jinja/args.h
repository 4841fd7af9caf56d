// Binds the arguments of a native function, filter or test to its parameters, as Python would.
#pragma once

#include <array>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/strings.h"
#include "text/jinja/value.h"

namespace slipstream::jinja {

class BoundArgs {
 public:
  // Raises TypeError for too many, unknown, repeated or missing arguments.
  BoundArgs(const char* function, const Args& args, std::initializer_list<const char*> names,
            size_t num_required = 0)
      : function_(function), names_(names) {
    if (args.positional.size() > names.size() || names.size() > values_.size()) {
      raise_type_error(str(function, "() takes at most ", names.size(), " arguments (",
                           args.positional.size(), " given)"));
    }
    for (size_t k = 0; k < args.positional.size(); ++k) values_[k] = &args.positional[k];
    for (const auto& [name, value] : args.keywords) values_[slot_of(name)] = &value;
    for (size_t k = 0; k < num_required; ++k) {
      if (values_[k] == nullptr) {
        raise_type_error(str(function, "() missing required argument: '", names.begin()[k], "'"));
      }
    }
  }

  // Null when the argument is absent.
  const Value* get(size_t k) const { return values_[k]; }
  // Null when absent or None.
  const Value* get_some(size_t k) const {
    return values_[k] == nullptr || values_[k]->is_none() ? nullptr : values_[k];
  }
  bool truthy(size_t k, bool fallback) const {
    return values_[k] == nullptr ? fallback : values_[k]->truthy();
  }
  int64_t integer(size_t k, int64_t fallback) const {
    if (values_[k] == nullptr) return fallback;
    if (values_[k]->is_undefined()) values_[k]->raise_undefined();
    if (!values_[k]->is_integral()) {
      raise_type_error(
          str("'", type_name(*values_[k]), "' object cannot be interpreted as an integer"));
    }
    return values_[k]->as_int();
  }
  const std::string& text(size_t k) const {
    if (values_[k]->is_undefined()) values_[k]->raise_undefined();
    if (!values_[k]->is_string()) {
      raise_type_error(
          str(function_, "() argument ", k + 1, " must be str, not ", type_name(*values_[k])));
    }
    return values_[k]->text();
  }

 private:
  size_t slot_of(const std::string& name) const {
    for (size_t k = 0; k < names_.size(); ++k) {
      if (name != names_.begin()[k]) continue;
      if (values_[k] != nullptr) {
        raise_type_error(str(function_, "() got multiple values for argument '", name, "'"));
      }
      return k;
    }
    raise_type_error(str(function_, "() got an unexpected keyword argument '", name, "'"));
  }

  const char* function_;
  std::initializer_list<const char*> names_;  // of literals: outlives the call
  std::array<const Value*, 8> values_ = {};
};

}  // namespace slipstream::jinja
