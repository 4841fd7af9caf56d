// The ggml tensor types: those of quant/formats.cc, and by name and size those that this program
// does not read, so that a file holding them can still be checked and described.
#include <array>

#include "base/strings.h"
#include "loader/gguf_parse.h"

namespace slipstream {
namespace {

constexpr std::array kUnreadTypes = {
    GgmlType{10, "Q2_K", 256, 84},    GgmlType{11, "Q3_K", 256, 110},
    GgmlType{16, "IQ2_XXS", 256, 66}, GgmlType{17, "IQ2_XS", 256, 74},
    GgmlType{18, "IQ3_XXS", 256, 98}, GgmlType{19, "IQ1_S", 256, 50},
    GgmlType{20, "IQ4_NL", 32, 18},   GgmlType{21, "IQ3_S", 256, 110},
    GgmlType{22, "IQ2_S", 256, 82},   GgmlType{23, "IQ4_XS", 256, 136},
    GgmlType{24, "I8", 1, 1},         GgmlType{25, "I16", 1, 2},
    GgmlType{26, "I32", 1, 4},        GgmlType{27, "I64", 1, 8},
    GgmlType{28, "F64", 1, 8},        GgmlType{29, "IQ1_M", 256, 56},
    GgmlType{34, "TQ1_0", 256, 54},   GgmlType{35, "TQ2_0", 256, 66},
    GgmlType{39, "MXFP4", 32, 17},    GgmlType{40, "NVFP4", 64, 36},
    GgmlType{41, "Q1_0", 128, 18},
};

}  // namespace

bool find_ggml_type(uint32_t id, GgmlType& out) {
  if (const QuantFormat* format = id < 1024 ? find_quant_format(static_cast<int>(id)) : nullptr) {
    out = {id, format->name, static_cast<uint32_t>(format->block_elements),
           static_cast<uint32_t>(format->block_bytes)};
    return true;
  }
  for (const GgmlType& type : kUnreadTypes) {
    if (type.id != id) continue;
    out = type;
    return true;
  }
  return false;
}

std::string ggml_type_name(uint32_t ggml_type) {
  GgmlType type{};
  return find_ggml_type(ggml_type, type) ? type.name : str("type ", ggml_type);
}

}  // namespace slipstream
