#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/json.h"
#include "evolora/data/tokenizer_spec.h"

namespace evolora {
namespace {

Json ByteLevel(bool use_regex) {
  return Json{{"type", "ByteLevel"},
              {"add_prefix_space", false},
              {"trim_offsets", true},
              {"use_regex", use_regex}};
}

Json PreTokenizer(const TokenizerSpec& spec) {
  Json steps = Json::array();
  for (const std::string& pattern : spec.split_patterns) {
    steps.push_back(Json{{"type", "Split"},
                         {"pattern", Json{{"Regex", pattern}}},
                         {"behavior", "Isolated"},
                         {"invert", false}});
  }
  steps.push_back(ByteLevel(/*use_regex=*/false));
  return Json{{"type", "Sequence"}, {"pretokenizers", steps}};
}

// Puts BOS in front of a text.
Json PostProcessor(const std::string& bos, TokenId bos_id) {
  const auto sequence = [](const char* id, int type) {
    return Json{{"Sequence", Json{{"id", id}, {"type_id", type}}}};
  };
  const auto token = [&](int type) {
    return Json{{"SpecialToken", Json{{"id", bos}, {"type_id", type}}}};
  };
  Json special;
  special[bos] = Json{{"id", bos}, {"ids", {bos_id}}, {"tokens", {bos}}};
  return Json{{"type", "TemplateProcessing"},
              {"single", Json::array({token(0), sequence("A", 0)})},
              {"pair", Json::array({token(0), sequence("A", 0), token(1), sequence("B", 1)})},
              {"special_tokens", special}};
}

Json AddedTokens(const TokenizerSpec& spec) {
  Json list = Json::array();
  for (const AddedToken& token : spec.added_tokens) {
    list.push_back(Json{{"id", token.id},
                        {"content", token.text},
                        {"single_word", token.is_single_word},
                        {"lstrip", token.strips_left},
                        {"rstrip", token.strips_right},
                        {"normalized", token.is_normalized},
                        {"special", token.is_special}});
  }
  return list;
}

absl::StatusOr<Json> Model(const TokenizerSpec& spec) {
  Json vocab = Json::object();
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const std::string& text = spec.tokens[id];
    if (text.empty()) continue;
    if (vocab.contains(text)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokens ", vocab[text].get<int64_t>(), " and ", id, " have one text"));
    }
    vocab[text] = id;
  }
  Json merges = Json::array();
  for (const auto& [left, right] : spec.merges) merges.push_back(Json::array({left, right}));
  Json unk;
  if (spec.unk_id >= 0) unk = spec.tokens[static_cast<size_t>(spec.unk_id)];
  return Json{{"type", "BPE"},
              {"dropout", Json()},
              {"unk_token", unk},
              {"continuing_subword_prefix", Json()},
              {"end_of_word_suffix", Json()},
              {"fuse_unk", spec.fuse_unk},
              {"byte_fallback", false},
              {"ignore_merges", spec.ignore_merges},
              {"vocab", std::move(vocab)},
              {"merges", std::move(merges)}};
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> HfTokenizerFiles(const TokenizerSpec& spec) {
  if (spec.kind != TokenizerKind::kByteLevelBpe) {
    return absl::UnimplementedError("tokenizer.json: written of a byte-level BPE only");
  }
  const auto text_of = [&](TokenId id) {
    return id >= 0 ? spec.tokens.at(static_cast<size_t>(id)) : std::string();
  };
  const std::string bos = text_of(spec.bos_id), eos = text_of(spec.eos_id);
  absl::StatusOr<Json> model = Model(spec);
  if (!model.ok()) return model.status();
  const Json tokenizer{{"version", "1.0"},
                       {"truncation", Json()},
                       {"padding", Json()},
                       {"added_tokens", AddedTokens(spec)},
                       {"normalizer", spec.nfc ? Json{{"type", "NFC"}} : Json()},
                       {"pre_tokenizer", PreTokenizer(spec)},
                       {"post_processor", spec.adds_bos ? PostProcessor(bos, spec.bos_id) : Json()},
                       {"decoder", ByteLevel(/*use_regex=*/true)},
                       {"model", *std::move(model)}};
  Json config{{"tokenizer_class", "PreTrainedTokenizerFast"},
              {"add_bos_token", spec.adds_bos},
              {"clean_up_tokenization_spaces", false}};
  if (!bos.empty()) config["bos_token"] = bos;
  if (!eos.empty()) config["eos_token"] = eos;
  if (!spec.chat_template.empty()) config["chat_template"] = spec.chat_template;
  return std::map<std::string, std::string>{{"tokenizer.json", tokenizer.dump() + "\n"},
                                            {"tokenizer_config.json", config.dump(2) + "\n"}};
}

}  // namespace evolora
