// The filters over sequences, for the table in filters.cc.
#pragma once

#include "text/jinja/value.h"

namespace slipstream::jinja {

Value filter_batch(Interpreter& in, const Value& self, const Args& args);
Value filter_dictsort(Interpreter& in, const Value& self, const Args& args);
Value filter_first(Interpreter& in, const Value& self, const Args& args);
Value filter_groupby(Interpreter& in, const Value& self, const Args& args);
Value filter_items(Interpreter& in, const Value& self, const Args& args);
Value filter_join(Interpreter& in, const Value& self, const Args& args);
Value filter_last(Interpreter& in, const Value& self, const Args& args);
Value filter_list(Interpreter& in, const Value& self, const Args& args);
Value filter_map(Interpreter& in, const Value& self, const Args& args);
Value filter_max(Interpreter& in, const Value& self, const Args& args);
Value filter_min(Interpreter& in, const Value& self, const Args& args);
Value filter_reject(Interpreter& in, const Value& self, const Args& args);
Value filter_rejectattr(Interpreter& in, const Value& self, const Args& args);
Value filter_reverse(Interpreter& in, const Value& self, const Args& args);
Value filter_select(Interpreter& in, const Value& self, const Args& args);
Value filter_selectattr(Interpreter& in, const Value& self, const Args& args);
Value filter_slice(Interpreter& in, const Value& self, const Args& args);
Value filter_sort(Interpreter& in, const Value& self, const Args& args);
Value filter_sum(Interpreter& in, const Value& self, const Args& args);
Value filter_unique(Interpreter& in, const Value& self, const Args& args);

}  // namespace slipstream::jinja
