// FlatMap: a hash map whose entries lie side by side, for keys that are looked up in every step.
// The one door to Boost.Unordered.
//
// As std::unordered_map, but references to entries are valid only until the next insertion.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>

namespace slipstream {

template <typename Key, typename Value>
using FlatMap = boost::unordered_flat_map<Key, Value>;

}  // namespace slipstream
