// slipstream inspect: what a model's files hold and what running it takes. Reads no weights.
#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/strings.h"
#include "cli/command.h"
#include "cli/line_io.h"
#include "cli/model_path.h"
#include "cli/shared_flags.h"
#include "loader/checkpoint.h"
#include "model/families/families.h"
#include "text/tokenizer.h"

namespace slipstream {
namespace {

constexpr int64_t kKvElementBytes = 2;  // f16

int64_t num_elements(const TensorInfo& tensor) {
  int64_t count = 1;
  for (const int64_t extent : tensor.shape) count *= extent;
  return count;
}

Json tensors_json(const std::vector<TensorInfo>& tensors) {
  Json list = Json::array();
  for (const TensorInfo& tensor : tensors) {
    list.push_back(Json{{"name", tensor.name},
                        {"shape", tensor.shape},
                        {"format", tensor.type_name},
                        {"bytes", tensor.bytes},
                        {"readable", tensor.format != nullptr}});
  }
  return list;
}

Json formats_json(const std::vector<TensorInfo>& tensors) {
  std::map<std::string, std::pair<int64_t, uint64_t>> formats;
  for (const TensorInfo& tensor : tensors) {
    auto& [count, bytes] = formats[tensor.type_name];
    ++count;
    bytes += tensor.bytes;
  }
  Json object = Json::object();
  for (const auto& [name, entry] : formats) {
    object[name] = Json{{"tensors", entry.first}, {"bytes", entry.second}};
  }
  return object;
}

Json architecture_json(const ModelConfig& config, const std::vector<TensorInfo>& tensors) {
  int64_t num_parameters = 0;
  for (const TensorInfo& tensor : tensors) {
    // Beside quantised weights: not parameters of the model.
    const bool is_scale = ends_with(tensor.name, "_scale") || ends_with(tensor.name, "_scale_inv");
    if (!is_scale) num_parameters += num_elements(tensor);
  }
  return Json{{"family", config.family},
              {"name", config.name},
              {"parameters", num_parameters},
              {"hidden_size", config.hidden_size},
              {"intermediate_size", config.intermediate_size},
              {"num_hidden_layers", config.num_hidden_layers},
              {"num_attention_heads", config.num_attention_heads},
              {"num_key_value_heads", config.num_key_value_heads},
              {"head_dim", config.head_dim},
              {"vocab_size", config.vocab_size},
              {"max_position_embeddings", config.max_position_embeddings},
              {"rope_theta", config.rope.theta},
              {"tie_word_embeddings", config.tie_word_embeddings},
              {"qk_norm", config.qk_norm},
              {"attention_bias", config.attention_bias}};
}

Json tokenizer_json(const std::string& path, std::string& chat_template) {
  const Result<std::shared_ptr<const Tokenizer>> loaded = Tokenizer::load(path);
  if (!loaded.ok()) return Json{{"error", loaded.status().message()}};
  const Tokenizer& tokenizer = *loaded.value();
  if (tokenizer.chat_template() != nullptr) chat_template = *tokenizer.chat_template();
  const SpecialTokens& special = tokenizer.special_tokens();
  const auto id_json = [](const std::optional<int32_t>& id) {
    return id ? Json(*id) : Json(nullptr);
  };
  return Json{{"vocab_size", tokenizer.vocab_size()},
              {"adds_bos", tokenizer.adds_bos()},
              {"bos_id", id_json(special.bos_id)},
              {"bos_token", tokenizer.bos_token()},
              {"eos_id", id_json(special.eos_id)},
              {"eos_token", tokenizer.eos_token()},
              {"end_of_generation_ids", special.end_of_generation_ids}};
}

// Weights as they are stored, KV for one sequence of `max_model_len` tokens.
Json memory_json(const ModelConfig& config, uint64_t weight_bytes, int64_t max_model_len) {
  const int64_t kv_bytes_per_token = int64_t{2} * config.num_hidden_layers *
                                     config.num_key_value_heads * config.head_dim * kKvElementBytes;
  const int64_t kv_bytes = kv_bytes_per_token * max_model_len;
  return Json{{"max_model_len", max_model_len},
              {"weight_bytes", weight_bytes},
              {"kv_format", "f16"},
              {"kv_bytes_per_token", kv_bytes_per_token},
              {"kv_bytes", kv_bytes},
              {"total_bytes", static_cast<int64_t>(weight_bytes) + kv_bytes}};
}

std::string human(const Json& bytes) { return human_bytes(bytes.get<uint64_t>()); }

std::string words(const Json& report) {
  const Json& a = report["architecture"];
  const Json& t = report["tokenizer"];
  const Json& m = report["memory"];
  std::string text =
      str("model       ", report["path"].get<std::string>(), " (",
          report["kind"].get<std::string>(), ", ", human(report["file_bytes"]), ")\n");
  text += str("family      ", a["family"].get<std::string>(), ", ", a["parameters"],
              " parameters, name ", quote(a["name"].get<std::string>()), "\n");
  text += str("layers      ", a["num_hidden_layers"], " x hidden ", a["hidden_size"], ", ",
              a["num_attention_heads"], " heads on ", a["num_key_value_heads"], " KV heads of ",
              a["head_dim"], ", MLP ", a["intermediate_size"], "\n");
  text += str("vocabulary  ", a["vocab_size"], " rows",
              a["tie_word_embeddings"].get<bool>() ? ", LM head tied to the embedding" : "",
              "; context ", a["max_position_embeddings"], " tokens\n");
  if (t.contains("error")) {
    text += "tokenizer   none: " + t["error"].get<std::string>() + "\n";
  } else {
    text +=
        str("tokenizer   ", t["vocab_size"], " tokens, bos ",
            quote(t["bos_token"].get<std::string>()), t["adds_bos"].get<bool>() ? " (added)" : "",
            ", eos ", quote(t["eos_token"].get<std::string>()), "\n");
  }
  text += report["chat_template"].is_null()
              ? std::string("template    none\n")
              : str("template    ", report["chat_template"].get<std::string>().size(), " bytes\n");
  text += str("memory      ", human(m["weight_bytes"]), " weights + ", human(m["kv_bytes"]),
              " KV for ", m["max_model_len"], " tokens (f16, ", m["kv_bytes_per_token"],
              " B each) = ", human(m["total_bytes"]), "\n");
  for (const auto& [format, entry] : report["formats"].items()) {
    text += str("format      ", format, ": ", entry["tensors"], " tensors, ", human(entry["bytes"]),
                "\n");
  }
  for (const Json& tensor : report["tensors"]) {
    text += str("tensor      ", tensor["name"].get<std::string>(), " ", dump_json(tensor["shape"]),
                " ", tensor["format"].get<std::string>(), " ", tensor["bytes"], " B",
                tensor["readable"].get<bool>() ? "" : " (not a format this program reads)", "\n");
  }
  return text;
}

class InspectCommand : public Command {
 public:
  std::string name() const override { return "inspect"; }
  std::string summary() const override {
    return "architecture, tensors, formats, tokenizer, template, and memory needed";
  }
  std::vector<Positional> positionals() override { return {model_positional(shared_)}; }
  std::vector<Flag> flags() override {
    return {
        model_flag(shared_),
        int_flag({"max-model-len", "", "TOKENS", "the model's own limit",
                  "context length to give the memory for"},
                 {1, INT32_MAX}, [this](int64_t value) { max_model_len_ = value; }),
        switch_flag({"json", "", "", "", "print one JSON object"}, [this] { json_ = true; }),
    };
  }
  Result<int> run() override;

 private:
  SharedOptions shared_;
  int64_t max_model_len_ = 0;
  bool json_ = false;
};

Result<int> InspectCommand::run() {
  SLIPSTREAM_ASSIGN_OR_RETURN(const ModelPath model, resolve_model(shared_.model));
  SLIPSTREAM_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(model.path));
  SLIPSTREAM_ASSIGN_OR_RETURN(const ModelDescription description, describe_model(*checkpoint));
  const ModelConfig& config = description.config;
  const std::vector<TensorInfo> tensors = checkpoint->tensors();
  uint64_t weight_bytes = 0;
  for (const TensorInfo& tensor : tensors) weight_bytes += tensor.bytes;
  const int64_t limit = config.max_position_embeddings;
  if (max_model_len_ > limit) {
    return bad_usage(
        str("--max-model-len ", max_model_len_, ": the model's limit is ", limit, " tokens"));
  }
  std::string chat_template;
  Json report{{"path", model.path},
              {"kind", checkpoint->kind() == Checkpoint::kGguf ? "gguf" : "hugging_face"},
              {"file_bytes", checkpoint->file_bytes()},
              {"architecture", architecture_json(config, tensors)},
              {"tokenizer", tokenizer_json(model.path, chat_template)}};
  report["chat_template"] = chat_template.empty() ? Json(nullptr) : Json(chat_template);
  report["memory"] = memory_json(config, weight_bytes, max_model_len_ > 0 ? max_model_len_ : limit);
  report["formats"] = formats_json(tensors);
  report["tensors"] = tensors_json(tensors);
  Output output;
  output.write_now(json_ ? dump_json(report) + "\n" : words(report));
  if (!output.status().ok()) return output.status();
  return 0;
}

}  // namespace

std::unique_ptr<Command> make_inspect_command() { return std::make_unique<InspectCommand>(); }

}  // namespace slipstream
