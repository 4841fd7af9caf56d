// Tokenizer::load: finds the vocabulary file of a path, and reads what stands beside it.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>

#include "base/json.h"
#include "base/mmap_file.h"
#include "base/strings.h"
#include "loader/gguf.h"
#include "text/tokenizer_data.h"

namespace slipstream {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxVocabFileBytes = 256u << 20;
constexpr uint64_t kMaxConfigBytes = 16u << 20;
constexpr uint64_t kMaxTemplateBytes = 4u << 20;
constexpr size_t kMaxTemplates = 64;

using TokenizerPtr = std::shared_ptr<const Tokenizer>;

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

Result<TokenizerPtr> finish(Result<TokenizerDataPtr> data) {
  if (!data.ok()) return data.status();
  return std::make_shared<const Tokenizer>(std::move(data).value());
}

// A JSON file that may be missing: null then.
Result<Json> optional_json(const fs::path& path) {
  if (!is_there(path)) return Json();
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text,
                              read_text_file(path.string(), kMaxConfigBytes));
  Result<Json> value = parse_json(text, path.string(), {.max_bytes = kMaxConfigBytes});
  if (!value.ok()) return invalid_model(value.status().message());
  if (!value->is_object()) return invalid_model(path.string() + ": not a JSON object");
  return value;
}

// "token" or {"content": "token"}; empty when absent.
std::string token_spelling(const Json& config, const char* key) {
  if (!config.is_object() || !config.contains(key)) return {};
  const Json& value = config[key];
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string()) {
    return value["content"].get<std::string>();
  }
  return {};
}

struct Role {
  const char* key;
  std::optional<int32_t> SpecialTokens::* id;
};
constexpr Role kRoles[] = {
    {"bos_token", &SpecialTokens::bos_id},
    {"eos_token", &SpecialTokens::eos_id},
    {"unk_token", &SpecialTokens::unk_id},
    {"pad_token", &SpecialTokens::pad_id},
};

Status read_roles(const Json& config, const Json& map, SpecialsRule rule, TokenizerData& data) {
  for (const Role& role : kRoles) {
    std::string spelling = token_spelling(config, role.key);
    if (spelling.empty()) spelling = token_spelling(map, role.key);
    if (spelling.empty()) continue;
    const int32_t id = data.vocab.find(spelling);
    if (id < 0) continue;  // a role no text can use
    data.special.*role.id = id;
    const bool known = data.is_special[static_cast<size_t>(id)];
    if (rule != SpecialsRule::kFromVocab && !known && spelling.size() <= kMaxAddedTokenBytes) {
      SLIPSTREAM_RETURN_IF_ERROR(
          add_token_rule(data, {.id = id, .content = spelling, .special = true}));
    }
  }
  if (data.special.bos_id) data.bos_token = data.vocab.text(*data.special.bos_id);
  if (data.special.eos_id) {
    data.eos_token = data.vocab.text(*data.special.eos_id);
    add_end_of_generation(data, *data.special.eos_id);
  }
  return {};
}

Status read_surroundings(const Json& config, SpecialsRule rule, TokenizerData& data) {
  if (rule == SpecialsRule::kFromVocab) return {};
  const Json none = Json::object();
  const Json& source = config.is_object() ? config : none;
  SLIPSTREAM_ASSIGN_OR_RETURN(
      const bool adds_bos, json_bool(source, "add_bos_token", rule == SpecialsRule::kBosByDefault));
  SLIPSTREAM_ASSIGN_OR_RETURN(const bool adds_eos, json_bool(source, "add_eos_token", false));
  if (adds_bos && data.special.bos_id) data.prefix_ids.push_back(*data.special.bos_id);
  if (adds_eos && data.special.eos_id) data.suffix_ids.push_back(*data.special.eos_id);
  return {};
}

void read_end_ids(const Json& generation, TokenizerData& data) {
  if (!generation.is_object() || !generation.contains("eos_token_id")) return;
  const Json& value = generation["eos_token_id"];
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& id : list) {
    if (id.is_number_integer() && id >= 0 && id < data.vocab.size()) {
      add_end_of_generation(data, id.get<int32_t>());
    }
  }
}

// The newest convention wins: a file of its own, then the config's string or list.
Status read_templates(const fs::path& folder, const Json& config, TokenizerData& data) {
  std::vector<NamedTemplate>& out = data.chat_templates;
  if (is_there(folder / "chat_template.jinja")) {
    SLIPSTREAM_ASSIGN_OR_RETURN(
        std::string source,
        read_text_file((folder / "chat_template.jinja").string(), kMaxTemplateBytes));
    out.push_back({"default", std::move(source)});
  }
  std::error_code error;
  std::vector<fs::path> files;
  for (fs::directory_iterator it(folder / "additional_chat_templates", error), end;
       !error && it != end && files.size() < kMaxTemplates; it.increment(error)) {
    if (it->path().extension() == ".jinja") files.push_back(it->path());
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    SLIPSTREAM_ASSIGN_OR_RETURN(std::string source,
                                read_text_file(file.string(), kMaxTemplateBytes));
    out.push_back({file.stem().string(), std::move(source)});
  }
  if (!out.empty() || !config.is_object() || !config.contains("chat_template")) return {};
  const Json& value = config["chat_template"];
  if (value.is_string()) {
    out.push_back({"default", value.get<std::string>()});
  } else if (value.is_array()) {
    for (const Json& entry : value) {
      SLIPSTREAM_ASSIGN_OR_RETURN(std::string name, json_string(entry, "name", "default"));
      SLIPSTREAM_ASSIGN_OR_RETURN(std::string source, json_string(entry, "template", ""));
      if (out.size() < kMaxTemplates) out.push_back({std::move(name), std::move(source)});
    }
  }
  return {};
}

Result<TokenizerDataPtr> read_json_file(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxVocabFileBytes));
  return read_tokenizer_json(text, path);
}

Result<TokenizerDataPtr> read_model_file(const std::string& path) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string bytes, read_text_file(path, kMaxVocabFileBytes));
  return read_sentencepiece_model(bytes, path);
}

// What a vocab.json does not hold: added_tokens.json gives spellings their ids, and the config's
// added_tokens_decoder gives ids their spellings and rules; of one id the latter counts. Written as
// the added_tokens of a tokenizer.json.
Result<Json> read_added_tokens(const fs::path& folder) {
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json by_text, optional_json(folder / "added_tokens.json"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json config, optional_json(folder / "tokenizer_config.json"));
  std::map<int64_t, Json> by_id;
  for (const auto& [content, id] : by_text.items()) {
    if (!id.is_number_integer()) {
      return invalid_model(str((folder / "added_tokens.json").string(), ": the id of ",
                               quote(content), " is not an integer"));
    }
    by_id[id.get<int64_t>()] = {{"content", content}, {"normalized", false}};
  }
  const std::string key = "added_tokens_decoder";
  if (config.is_object() && config.contains(key)) {
    const std::string place = str((folder / "tokenizer_config.json").string(), ": ", key);
    if (!config[key].is_object()) return invalid_model(place + " is not an object");
    for (const auto& [name, rule] : config[key].items()) {
      int64_t id = -1;
      const auto parsed = std::from_chars(name.data(), name.data() + name.size(), id);
      if (parsed.ec != std::errc() || parsed.ptr != name.data() + name.size()) {
        return invalid_model(str(place, ": ", quote(name), " is not an id"));
      }
      if (!rule.is_object()) return invalid_model(str(place, ": ", id, " is not an object"));
      by_id[id] = rule;
    }
  }
  Json list = Json::array();
  for (auto& [id, rule] : by_id) {
    rule["id"] = id;
    list.push_back(std::move(rule));
  }
  return list;
}

Result<TokenizerDataPtr> read_vocab_file(const fs::path& folder) {
  const std::string vocab = (folder / "vocab.json").string();
  const std::string merges = (folder / "merges.txt").string();
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string vocab_text,
                              read_text_file(vocab, kMaxVocabFileBytes));
  SLIPSTREAM_ASSIGN_OR_RETURN(const std::string merges_text,
                              read_text_file(merges, kMaxVocabFileBytes));
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json added, read_added_tokens(folder));
  return read_vocab_and_merges(vocab_text, merges_text, dump_json(added), vocab);
}

struct Source {
  const char* file;
  SpecialsRule rule;
};
// In order of preference.
constexpr Source kSources[] = {
    {"tokenizer.json", SpecialsRule::kFromVocab},
    {"tokenizer.model", SpecialsRule::kBosByDefault},
    {"vocab.json", SpecialsRule::kBosIfAsked},
};

Result<TokenizerPtr> load_from(const fs::path& folder, const fs::path& file, SpecialsRule rule) {
  Result<TokenizerDataPtr> data = rule == SpecialsRule::kFromVocab ? read_json_file(file.string())
                                  : rule == SpecialsRule::kBosByDefault
                                      ? read_model_file(file.string())
                                      : read_vocab_file(folder);
  if (!data.ok()) return data.status();
  SLIPSTREAM_RETURN_IF_ERROR(read_folder_extras(folder.string(), rule, *data.value()));
  return finish(std::move(data));
}

}  // namespace

Status read_folder_extras(const std::string& folder, SpecialsRule rule, TokenizerData& data) {
  const fs::path path(folder);
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json config, optional_json(path / "tokenizer_config.json"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json map, optional_json(path / "special_tokens_map.json"));
  SLIPSTREAM_ASSIGN_OR_RETURN(const Json generation,
                              optional_json(path / "generation_config.json"));
  SLIPSTREAM_RETURN_IF_ERROR(read_roles(config, map, rule, data).in(folder));
  SLIPSTREAM_RETURN_IF_ERROR(
      read_surroundings(config, rule, data).in((path / "tokenizer_config.json").string()));
  read_end_ids(generation, data);
  add_known_end_tokens(data);
  return read_templates(path, config, data);
}

Result<TokenizerPtr> Tokenizer::load(const std::string& path) {
  std::error_code error;
  const fs::path given(path);
  if (!fs::exists(given, error)) return failed(str(path, ": no such file or folder"));
  if (fs::is_directory(given, error)) {
    for (const Source& source : kSources) {
      if (is_there(given / source.file)) return load_from(given, given / source.file, source.rule);
    }
    return invalid_model(
        str(path, ": no tokenizer.json, tokenizer.model or vocab.json in this folder"));
  }
  const fs::path folder = given.has_parent_path() ? given.parent_path() : fs::path(".");
  const std::string name = given.filename().string();
  if (name.ends_with(".gguf")) {
    SLIPSTREAM_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::open(path));
    Result<TokenizerPtr> tokenizer = from_gguf(file.metadata());
    if (!tokenizer.ok()) return tokenizer.status().in(path);
    return tokenizer;
  }
  if (name.ends_with(".model")) return load_from(folder, given, SpecialsRule::kBosByDefault);
  if (name == "vocab.json" || name == "merges.txt") {
    return load_from(folder, given, SpecialsRule::kBosIfAsked);
  }
  if (name.ends_with(".json")) return load_from(folder, given, SpecialsRule::kFromVocab);
  return bad_usage(str(path,
                       ": not a tokenizer; tokenizer.json, tokenizer.model, vocab.json or a "
                       ".gguf file is expected"));
}

Result<TokenizerPtr> Tokenizer::from_gguf(const GgufMetadata& metadata) {
  return finish(read_gguf_vocab(metadata));
}

Result<TokenizerPtr> Tokenizer::from_json(std::string_view json, const std::string& what) {
  return finish(read_tokenizer_json(json, what));
}

Result<TokenizerPtr> Tokenizer::from_sentencepiece(std::string_view bytes,
                                                   const std::string& what) {
  return finish(read_sentencepiece_model(bytes, what));
}

}  // namespace slipstream
