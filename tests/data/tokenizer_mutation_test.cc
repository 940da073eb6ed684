#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "data/tokenizer_golden.h"
#include "evolora/data/chat_format.h"
#include "evolora/data/tokenizer_spec.h"
#include "support/mutate.h"

namespace evolora {
namespace {

using ::evolora::testing::GoldenText;
using ::evolora::testing::RunMutations;

// Whatever a broken file still describes has to work.
absl::Status Use(const absl::StatusOr<TokenizerSpec>& spec) {
  if (!spec.ok()) return spec.status();
  const auto tokenizer = MakeTokenizer(*spec);
  if (!tokenizer.ok()) return tokenizer.status();
  const char* const kTexts[] = {"", " ", "in the end<|x|></s> 12",
                                "caf\xC3\xA9 \xF0\x9F\x98\x80\n\n  x"};
  for (const char* text : kTexts) {
    for (const SpecialText special : {SpecialText::kAsText, SpecialText::kAsTokens}) {
      const auto ids = (*tokenizer)->Encode(text, special);
      if (!ids.ok()) return ids.status();
      const auto decoded = (*tokenizer)->Decode(*ids);
      if (!decoded.ok()) return decoded.status();
    }
  }
  return absl::OkStatus();
}

// Small, so that a mutation often hits the structure.
std::string TinyJson(const std::string& pre_tokenizer) {
  return R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
    {"id": 9, "content": "<|x|>", "single_word": false, "lstrip": true, "rstrip": true,
     "normalized": true, "special": true},
    {"id": 10, "content": "<y>", "single_word": true, "lstrip": false, "rstrip": false,
     "normalized": false, "special": false}],
    "normalizer": {"type": "NFC"}, "pre_tokenizer": )" +
         pre_tokenizer + R"(,
    "post_processor": {"type": "TemplateProcessing", "single": [
      {"SpecialToken": {"id": "<|x|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [], "special_tokens": {}}, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": "?", "fuse_unk": true, "vocab": {
      "i": 0, "n": 1, "t": 2, "in": 3, "h": 4, "th": 5, "\u00c3": 6, "\u00a9": 7, "?": 8},
      "merges": ["i n", ["t", "h"]]}})";
}

TEST(TokenizerMutation, HfJsonIsReadOrRefused) {
  const std::string split = R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "(?i:'s|'t)|[^\\r\\n\\p{L}]?\\p{L}+|\\s+(?!\\S)|\\p{N}{1,3}"},
       "behavior": "Isolated", "invert": false}, {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})";
  const std::string gpt2 = R"({"type": "ByteLevel", "add_prefix_space": false})";
  const auto result =
      RunMutations({TinyJson(split), TinyJson(gpt2)}, 5000, 1, [](const std::string& text) {
        return Use(TokenizerSpecFromHfJson(text, R"({"eos_token": "<y>"})"));
      });
  EXPECT_GT(result.num_ok, 0);
  EXPECT_GT(result.num_refused, 0);
}

TEST(TokenizerMutation, HfConfigIsReadOrRefused) {
  const std::string json = TinyJson(R"({"type": "ByteLevel", "add_prefix_space": false})");
  RunMutations({R"({"bos_token": {"content": "<|x|>"}, "eos_token": "<y>", "add_bos_token": false,
                    "chat_template": [{"name": "default", "template": "{{ x }}"}]})"},
               5000, 2, [&json](const std::string& config) {
                 return Use(TokenizerSpecFromHfJson(json, config));
               });
}

TEST(TokenizerMutation, SentencePieceModelIsReadOrRefused) {
  const std::string bpe = GoldenText("tok512.model");
  const auto result = RunMutations({bpe}, 3000, 3, [](const std::string& model) {
    return Use(TokenizerSpecFromSentencePiece(model));
  });
  EXPECT_GT(result.num_ok, 0);
  EXPECT_GT(result.num_refused, 0);
}

TEST(TokenizerMutation, UnigramAndItsCharsmapAreReadOrRefused) {
  const std::string unigram = GoldenText("tiny_unigram.model");
  const auto result = RunMutations({unigram}, 3000, 4, [](const std::string& model) {
    return Use(TokenizerSpecFromSentencePiece(model));
  });
  EXPECT_GT(result.num_ok, 0);
  EXPECT_GT(result.num_refused, 0);
}

// The pieces of tok512.model; four of the bytes steer one change of a type, a score, an id or a
// text.
TokenizerSpec ChangedPieces(const std::string& bytes) {
  TokenizerSpec changed = TokenizerSpecFromSentencePiece(GoldenText("tok512.model")).value();
  if (bytes.size() % 2 == 1) changed.kind = TokenizerKind::kSentencePieceUnigram;
  for (size_t i = 0; i + 3 < bytes.size(); i += 4) {
    const size_t id = (static_cast<uint8_t>(bytes[i]) * 256u + static_cast<uint8_t>(bytes[i + 1])) %
                      changed.tokens.size();
    const uint8_t value = static_cast<uint8_t>(bytes[i + 2]);
    if (value % 4 == 0) changed.types[id] = static_cast<TokenType>(1 + value % 6);
    if (value % 4 == 1) changed.scores[id] = static_cast<float>(value) * 1e36f;
    if (value % 4 == 2) changed.tokens[id] = changed.tokens[value] + "x";
    if (value % 4 == 3) changed.unk_id = value % 3;
  }
  return changed;
}

TEST(TokenizerMutation, PiecesOfEitherKindAreReadOrRefused) {
  RunMutations({std::string("\x01\x02\x03\x04", 4)}, 3000, 5,
               [](const std::string& bytes) { return Use(ChangedPieces(bytes)); });
}

TEST(TokenizerMutation, ScoresThatLoseTheTextAreDataLoss) {
  EXPECT_TRUE(absl::IsDataLoss(Use(ChangedPieces("\x01\xbc\x5c\x26\xa4\x9d\x05\x02\x03\x04"))));
}

TEST(TokenizerMutation, ChatTemplatesAreRecognisedOrRefused) {
  std::vector<std::string> seeds;
  for (const char* name : {"chatml", "smollm2", "qwen2_5", "llama2", "llama3", "mistral_system"}) {
    seeds.push_back(GoldenText(std::string("templates/") + name + ".jinja"));
  }
  RunMutations(seeds, 20000, 6,
               [](const std::string& text) { return RecogniseChatFormat(text).status(); });
}

}  // namespace
}  // namespace evolora
