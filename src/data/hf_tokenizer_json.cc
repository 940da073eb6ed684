#include <algorithm>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/json.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/tokenizer_spec.h"
#include "hf_components.h"

namespace evolora {
namespace {

constexpr int64_t kMaxId = (int64_t{1} << 22) - 1;

absl::Status Invalid(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", why));
}

absl::Status ReadVocab(const Json& vocab, TokenizerSpec& spec) {
  for (const auto& [text, id] : vocab.items()) {
    const std::string path = absl::StrCat("model.vocab['", text, "']");
    if (!id.is_number_integer() || id < 0 || id > kMaxId) {
      return Invalid(path, "not an id of 0 .. 2^22 - 1");
    }
    const size_t index = id.get<size_t>();
    if (index >= spec.tokens.size()) spec.tokens.resize(index + 1);
    if (!spec.tokens[index].empty()) return Invalid(path, absl::StrCat("id ", index, " twice"));
    if (text.empty()) return Invalid(path, "an empty token");
    spec.tokens[index] = text;
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const Json& merges, TokenizerSpec& spec) {
  spec.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    std::string left, right;
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else if (merge.is_string()) {
      const std::string& text = merge.get_ref<const std::string&>();
      const size_t blank = text.find(' ');
      left = text.substr(0, blank);
      if (blank != std::string::npos) right = text.substr(blank + 1);
    }
    if (left.empty() || right.empty() || (merge.is_string() && right.find(' ') != right.npos)) {
      return Invalid(absl::StrCat("model.merges[", i, "]"), "not two tokens");
    }
    spec.merges.emplace_back(std::move(left), std::move(right));
  }
  return absl::OkStatus();
}

// The keys that must stand at the value that does nothing.
absl::Status ExpectNeutral(JsonFields& fields, const char* key) {
  const Json& value = fields.Any(key);
  if (value.is_null() || (value.is_string() && value.get_ref<const std::string&>().empty())) {
    return absl::OkStatus();
  }
  return HfUnimplemented(absl::StrCat("model.", key), value.dump(-1, ' ', true));
}

absl::Status ReadModel(const Json& json, TokenizerSpec& spec, std::string& unk_token) {
  JsonFields fields(json, "model");
  const std::string type = fields.OptionalString("type").value_or("BPE");
  if (type != "BPE") return HfUnimplemented("model.type", type);
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    RETURN_IF_ERROR(ExpectNeutral(fields, key));
  }
  const Json& unk = fields.Any("unk_token");
  spec.fuse_unk = fields.OptionalBool("fuse_unk").value_or(false);
  spec.byte_fallback = fields.OptionalBool("byte_fallback").value_or(false);
  spec.ignore_merges = fields.OptionalBool("ignore_merges").value_or(false);
  const Json& vocab = fields.Object("vocab");
  const Json& merges = fields.Array("merges");
  RETURN_IF_ERROR(fields.Done());
  if (unk.is_string()) {
    unk_token = unk.get<std::string>();
  } else if (!unk.is_null()) {
    return Invalid("model.unk_token", "neither a string nor null");
  }
  RETURN_IF_ERROR(ReadVocab(vocab, spec));
  return ReadMerges(merges, spec);
}

absl::flat_hash_map<std::string, TokenId> IdsByText(const TokenizerSpec& spec) {
  absl::flat_hash_map<std::string, TokenId> ids;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (!spec.tokens[i].empty()) ids.emplace(spec.tokens[i], static_cast<TokenId>(i));
  }
  return ids;
}

// Reference rule: a token of the model's vocabulary keeps its id; any other gets the next free one,
// whatever the file says. A file that says otherwise would encode differently there and here.
absl::Status ReadAddedTokens(const Json& list, TokenizerSpec& spec) {
  const absl::flat_hash_map<std::string, TokenId> model_ids = IdsByText(spec);
  int64_t next_id = static_cast<int64_t>(model_ids.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string path = absl::StrCat("added_tokens[", i, "]");
    JsonFields fields(list[i], path);
    AddedToken token;
    token.id = static_cast<TokenId>(fields.Integer("id", 0, kMaxId));
    token.text = fields.String("content");
    token.is_single_word = fields.Bool("single_word");
    token.strips_left = fields.Bool("lstrip");
    token.strips_right = fields.Bool("rstrip");
    token.is_normalized = fields.Bool("normalized");
    token.is_special = fields.Bool("special");
    RETURN_IF_ERROR(fields.Done());
    if (token.text.empty()) return Invalid(path + ".content", "empty");
    const auto it = model_ids.find(token.text);
    const int64_t expected = it != model_ids.end() ? it->second : next_id;
    if (token.id != expected) {
      return Invalid(path + ".id", absl::StrCat(token.id, ", but the reference gives '", token.text,
                                                "' the id ", expected));
    }
    next_id = std::max(next_id, static_cast<int64_t>(token.id) + 1);
    const size_t index = static_cast<size_t>(token.id);
    if (index >= spec.tokens.size()) spec.tokens.resize(index + 1);
    spec.tokens[index] = token.text;
    spec.added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// A token given as "text" or {"content": "text", ..}; "" when absent or null.
absl::StatusOr<std::string> TokenText(const Json& config, const char* key) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return std::string();
  if (it->is_string()) return it->get<std::string>();
  if (it->is_object() && it->contains("content") && (*it)["content"].is_string()) {
    return (*it)["content"].get<std::string>();
  }
  return Invalid(absl::StrCat("tokenizer_config.", key), "not a token");
}

// A string, or a list of {"name", "template"} of which "default" counts.
absl::Status ReadChatTemplate(const Json& config, TokenizerSpec& spec) {
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  if (it->is_string()) {
    spec.chat_template = it->get<std::string>();
    return absl::OkStatus();
  }
  if (!it->is_array()) return Invalid("tokenizer_config.chat_template", "neither text nor list");
  for (size_t i = 0; i < it->size(); ++i) {
    JsonFields fields((*it)[i], absl::StrCat("tokenizer_config.chat_template[", i, "]"));
    const std::string name = fields.String("name");
    const std::string text = fields.String("template");
    RETURN_IF_ERROR(fields.Done());
    if (name == "default") spec.chat_template = text;
  }
  return absl::OkStatus();
}

struct SpecialTexts {
  std::string bos, eos;
  bool adds_bos = false;
};

absl::Status ReadConfig(absl::string_view text, TokenizerSpec& spec, SpecialTexts& special) {
  if (text.empty()) return absl::OkStatus();
  absl::StatusOr<Json> config = ParseJson(text);
  if (!config.ok()) return Annotate(config.status(), "tokenizer_config");
  if (!config->is_object()) return Invalid("tokenizer_config", "not an object");
  ASSIGN_OR_RETURN(std::string bos, TokenText(*config, "bos_token"));
  if (!bos.empty()) special.bos = std::move(bos);
  ASSIGN_OR_RETURN(special.eos, TokenText(*config, "eos_token"));
  const auto add_bos = config->find("add_bos_token");
  if (add_bos != config->end() && !add_bos->is_null()) {
    if (!add_bos->is_boolean()) return Invalid("tokenizer_config.add_bos_token", "not a bool");
    special.adds_bos = add_bos->get<bool>();
  }
  return ReadChatTemplate(*config, spec);
}

absl::Status SetId(const absl::flat_hash_map<std::string, TokenId>& ids, const std::string& text,
                   const std::string& path, TokenId& id) {
  if (text.empty()) return absl::OkStatus();
  const auto it = ids.find(text);
  if (it == ids.end()) return Invalid(path, absl::StrCat("'", text, "' is not a token"));
  id = it->second;
  return absl::OkStatus();
}

absl::Status SetKind(bool is_byte_level, TokenizerSpec& spec) {
  spec.kind = is_byte_level ? TokenizerKind::kByteLevelBpe : TokenizerKind::kCharacterBpe;
  if (is_byte_level && spec.byte_fallback) {
    return HfUnimplemented("model.byte_fallback", "true with ByteLevel");
  }
  if (is_byte_level && spec.space_mark != SpaceMark::kNone) {
    return HfUnimplemented("normalizer", "Prepend with ByteLevel");
  }
  if (!is_byte_level && !spec.byte_fallback) {
    return HfUnimplemented("pre_tokenizer", "a BPE without ByteLevel and without byte_fallback");
  }
  return absl::OkStatus();
}

absl::Status ResolveIds(const SpecialTexts& special, const std::string& unk_token,
                        TokenizerSpec& spec) {
  const absl::flat_hash_map<std::string, TokenId> ids = IdsByText(spec);
  RETURN_IF_ERROR(SetId(ids, special.bos, "bos token", spec.bos_id));
  RETURN_IF_ERROR(SetId(ids, special.eos, "eos token", spec.eos_id));
  RETURN_IF_ERROR(SetId(ids, unk_token, "model.unk_token", spec.unk_id));
  spec.adds_bos = special.adds_bos && spec.bos_id >= 0;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> TokenizerSpecFromHfJson(absl::string_view tokenizer_json,
                                                      absl::string_view tokenizer_config) {
  absl::StatusOr<Json> json = ParseJson(tokenizer_json);
  if (!json.ok()) return Annotate(json.status(), "tokenizer.json");
  if (!json->is_object()) return Invalid("tokenizer.json", "not an object");
  JsonFields fields(*json, "tokenizer.json");
  (void)fields.OptionalString("version");
  (void)fields.Any("truncation");  // settings of the last caller, which the reference resets
  (void)fields.Any("padding");
  const Json& added = fields.Array("added_tokens");
  const Json& normalizer = fields.Any("normalizer");
  const Json& pre_tokenizer = fields.Any("pre_tokenizer");
  const Json& post_processor = fields.Any("post_processor");
  const Json& decoder = fields.Any("decoder");
  const Json& model = fields.Object("model");
  RETURN_IF_ERROR(fields.Done());

  TokenizerSpec spec;
  SpecialTexts special;
  std::string unk_token;
  bool is_byte_level = false;
  RETURN_IF_ERROR(ReadHfNormalizer(normalizer, "normalizer", spec));
  RETURN_IF_ERROR(ReadHfPreTokenizer(pre_tokenizer, "pre_tokenizer", spec, is_byte_level));
  RETURN_IF_ERROR(ReadHfPostProcessor(post_processor, "post_processor", special.bos));
  special.adds_bos = !special.bos.empty();
  RETURN_IF_ERROR(ReadModel(model, spec, unk_token));
  RETURN_IF_ERROR(SetKind(is_byte_level, spec));
  RETURN_IF_ERROR(ReadHfDecoder(decoder, "decoder", spec));
  RETURN_IF_ERROR(ReadAddedTokens(added, spec));
  RETURN_IF_ERROR(ReadConfig(tokenizer_config, spec, special));
  RETURN_IF_ERROR(ResolveIds(special, unk_token, spec));
  return spec;
}

}  // namespace evolora
