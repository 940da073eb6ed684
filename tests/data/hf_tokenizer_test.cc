#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "data/tokenizer_golden.h"
#include "evolora/data/tokenizer_spec.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::ExpectGolden;
using ::evolora::testing::GoldenJson;
using ::evolora::testing::GoldenText;
using ::evolora::testing::StatusIs;
using ::evolora::testing::VariantJson;
using ::testing::HasSubstr;

absl::StatusOr<std::shared_ptr<const Tokenizer>> Build(const std::string& json,
                                                       const std::string& config = "") {
  absl::StatusOr<TokenizerSpec> spec = TokenizerSpecFromHfJson(json, config);
  if (!spec.ok()) return spec.status();
  return MakeTokenizer(*spec);
}

class HfGolden : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(HfGolden, EncodesAndDecodesAsTheReference) {
  const auto [file, variant] = GetParam();
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Build(VariantJson(file, variant)));
  ExpectGolden(variant, tokenizer);
}

INSTANTIATE_TEST_SUITE_P(
    Variants, HfGolden,
    ::testing::Values(std::pair("gpt2_2000.json", "gpt2"), std::pair("gpt2_2000.json", "smollm"),
                      std::pair("gpt2_2000.json", "qwen2"), std::pair("gpt2_2000.json", "llama3"),
                      std::pair("gpt2_2000.json", "flags"), std::pair("tok512_hf.json", "prepend"),
                      std::pair("tok512_hf.json", "metaspace_first"),
                      std::pair("tok512_hf.json", "metaspace_always"),
                      std::pair("tok512_hf.json", "metaspace_never")),
    [](const auto& info) { return std::string(info.param.second); });

// A file made of what was read says the same.
TEST(HfTokenizer, WrittenFilesGiveTheTokenizerBack) {
  for (const char* variant : {"gpt2", "smollm", "qwen2", "llama3", "flags"}) {
    SCOPED_TRACE(variant);
    const std::string json = VariantJson("gpt2_2000.json", variant);
    const std::string config = R"({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "add_bos_token": true, "chat_template": "{{ bos }}"})";
    const bool has_marks = std::string(variant) == "smollm";
    ASSERT_OK_AND_ASSIGN(TokenizerSpec spec,
                         TokenizerSpecFromHfJson(json, has_marks ? config : ""));
    ASSERT_OK_AND_ASSIGN(const auto files, HfTokenizerFiles(spec));
    ASSERT_OK_AND_ASSIGN(
        const TokenizerSpec back,
        TokenizerSpecFromHfJson(files.at("tokenizer.json"), files.at("tokenizer_config.json")));
    ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(back));
    ExpectGolden(variant, tokenizer);
    EXPECT_EQ(back.tokens, spec.tokens);
    EXPECT_EQ(back.merges, spec.merges);
    EXPECT_EQ(back.split_patterns, spec.split_patterns);
    EXPECT_EQ(back.chat_template, spec.chat_template);
    EXPECT_EQ(std::tuple(back.bos_id, back.eos_id, back.adds_bos, back.nfc, back.ignore_merges),
              std::tuple(spec.bos_id, spec.eos_id, spec.adds_bos, spec.nfc, spec.ignore_merges));
  }
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec other,
                       TokenizerSpecFromHfJson(VariantJson("tok512_hf.json", "prepend"), ""));
  EXPECT_THAT(HfTokenizerFiles(other),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("byte-level BPE only")));
}

TEST(HfTokenizer, ReadsBosEosAndTemplateFromTheConfig) {
  const std::string config = R"({"bos_token": {"content": "<|im_start|>", "lstrip": false},
      "eos_token": "<|im_end|>", "add_bos_token": true, "other": 1,
      "chat_template": [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]})";
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec spec,
                       TokenizerSpecFromHfJson(VariantJson("gpt2_2000.json", "smollm"), config));
  EXPECT_EQ(spec.tokens[static_cast<size_t>(spec.bos_id)], "<|im_start|>");
  EXPECT_EQ(spec.tokens[static_cast<size_t>(spec.eos_id)], "<|im_end|>");
  EXPECT_TRUE(spec.adds_bos);
  EXPECT_EQ(spec.chat_template, "b");
}

TEST(HfTokenizer, TakesBosFromThePostProcessor) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Build(VariantJson("gpt2_2000.json", "llama3")));
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->bos_id(), tokenizer->SpecialId("<|endoftext|>"));
  EXPECT_TRUE(tokenizer->IsSpecial(tokenizer->bos_id()));
  EXPECT_EQ(tokenizer->TokenBytes(tokenizer->bos_id()), "");
  EXPECT_EQ(tokenizer->SpecialId("hello"), -1);
}

TEST(HfTokenizer, RefusesWhatItDoesNotUnderstandByItsPath) {
  const struct {
    const char* patch;
    absl::StatusCode code;
    const char* message;
  } rows[] = {
      {R"({"normalizer": {"type": "NFKC"}})", absl::StatusCode::kUnimplemented, "normalizer"},
      {R"({"pre_tokenizer": {"type": "BertPreTokenizer"}})", absl::StatusCode::kUnimplemented,
       "pre_tokenizer: pre-tokenizer BertPreTokenizer"},
      {R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true}})",
       absl::StatusCode::kUnimplemented, "pre_tokenizer.add_prefix_space"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split",
          "pattern": {"Regex": "a"}, "behavior": "Removed", "invert": false}]}})",
       absl::StatusCode::kUnimplemented, "pre_tokenizer.pretokenizers[0]: behavior 'Removed'"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split",
          "pattern": {"Regex": "(?<=a)b"}, "behavior": "Isolated", "invert": false},
          {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}})",
       absl::StatusCode::kUnimplemented, "'(?'"},
      {R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "new_flag": 1}})",
       absl::StatusCode::kInvalidArgument, "new_flag"},
      {R"({"post_processor": {"type": "BertProcessing"}})", absl::StatusCode::kUnimplemented,
       "post_processor: post-processor BertProcessing"},
      {R"({"decoder": {"type": "WordPiece"}})", absl::StatusCode::kUnimplemented, "decoder"},
      {R"({"model": {"type": "Unigram"}})", absl::StatusCode::kUnimplemented, "model.type"},
      {R"({"model": {"dropout": 0.1}})", absl::StatusCode::kUnimplemented, "model.dropout: 0.1"},
      {R"({"model": {"end_of_word_suffix": "</w>"}})", absl::StatusCode::kUnimplemented,
       "model.end_of_word_suffix"},
      {R"({"model": {"vocab": {"extra": 0}}})", absl::StatusCode::kInvalidArgument, "id 0 twice"},
      {R"({"model": {"vocab": {"extra": -1}}})", absl::StatusCode::kInvalidArgument,
       "model.vocab['extra']"},
      {R"({"model": {"vocab": {"extra": 99999999}}})", absl::StatusCode::kInvalidArgument,
       "model.vocab['extra']"},
      {R"({"model": {"merges": ["a b c"]}})", absl::StatusCode::kInvalidArgument,
       "model.merges[0]"},
      {R"({"model": {"merges": [["a", "zq"]]}})", absl::StatusCode::kInvalidArgument,
       "merge 0 ('a' 'zq'): 'zq' is not a token"},
      {R"({"model": {"merges": [["i", "n"], ["i", "n"]]}})", absl::StatusCode::kInvalidArgument,
       "merge 1 ('i' 'n') stands twice"},
      {R"({"model": {"unk_token": "nowhere"}})", absl::StatusCode::kInvalidArgument, "nowhere"},
      {R"({"added_tokens": [{"id": 7, "content": "<x>", "single_word": false, "lstrip": false,
          "rstrip": false, "normalized": false, "special": true}]})",
       absl::StatusCode::kInvalidArgument, "added_tokens[0].id: 7, but the reference gives"},
      {R"({"surprise": {}})", absl::StatusCode::kInvalidArgument, "surprise"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.patch);
    Json json = GoldenJson("gpt2_2000.json");
    const Json patch = Json::parse(row.patch);
    for (const char* key : {"pre_tokenizer", "decoder"}) {
      if (patch.contains(key)) json[key] = nullptr;
    }
    json.merge_patch(patch);
    EXPECT_THAT(Build(json.dump()), StatusIs(row.code, HasSubstr(row.message)));
  }
}

TEST(HfTokenizer, RefusesMalformedText) {
  EXPECT_THAT(Build("{"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tokenizer.json")));
  EXPECT_THAT(Build("[]"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("object")));
  EXPECT_THAT(
      Build(GoldenText("gpt2_2000.json"), "{\"bos_token\": 3}"),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tokenizer_config.bos_token")));
  EXPECT_THAT(Build(GoldenText("gpt2_2000.json"), "{\"eos_token\": \"<nope>\"}"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("<nope>")));
}

TEST(HfTokenizer, RefusesInvalidUtf8AndForeignIds) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Build(GoldenText("gpt2_2000.json")));
  EXPECT_THAT(tokenizer->Encode("ab\xC3(", SpecialText::kAsText),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("byte 2")));
  EXPECT_THAT(tokenizer->Decode({0, 2257}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ids[1] = 2257")));
  EXPECT_THAT(tokenizer->Decode({-1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1")));
}

TEST(HfTokenizer, DecodesAddedTokensToTheirOwnText) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Build(VariantJson("gpt2_2000.json", "qwen2")));
  const std::string text = "<tool_call>e\xCC\x81x";
  ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->Encode(text, SpecialText::kAsText));
  EXPECT_EQ(ids.size(), 2u);
  ASSERT_OK_AND_ASSIGN(const std::string decoded, tokenizer->Decode(ids));
  EXPECT_EQ(decoded, text);
}

TEST(EncodeRuns, SpecialTextCountsOnlyInsideARunOfTokens) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Build(VariantJson("gpt2_2000.json", "smollm")));
  const TokenId end = tokenizer->SpecialId("<|im_end|>");
  const auto count = [end](const EncodedRuns& encoded) {
    return std::count(encoded.ids.begin(), encoded.ids.end(), end);
  };
  const std::vector<TextRun> runs = {{"a<|im_end|>", SpecialText::kAsText},
                                     {"<|im_end|>", SpecialText::kAsTokens},
                                     {"<|im_", SpecialText::kAsTokens},
                                     {"end|>", SpecialText::kAsText}};
  ASSERT_OK_AND_ASSIGN(const EncodedRuns encoded, tokenizer->EncodeRuns(runs));
  EXPECT_EQ(count(encoded), 1);
  ASSERT_EQ(encoded.ids.size(), encoded.run_of_id.size());
  EXPECT_EQ(encoded.run_of_id.front(), 0);
  EXPECT_EQ(encoded.run_of_id.back(), 3);
  EXPECT_TRUE(std::is_sorted(encoded.run_of_id.begin(), encoded.run_of_id.end()));
}

TEST(EncodeRuns, CuttingPlainTextLeavesItsIds) {
  const std::string text = "Hello world, cafe\xCC\x81 it's 2024  \n\n done";
  for (const auto& [file, variant] :
       {std::pair("gpt2_2000.json", "gpt2"), std::pair("gpt2_2000.json", "qwen2"),
        std::pair("tok512_hf.json", "metaspace_first"), std::pair("tok512_hf.json", "prepend")}) {
    SCOPED_TRACE(variant);
    ASSERT_OK_AND_ASSIGN(const auto tokenizer, Build(VariantJson(file, variant)));
    ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> whole,
                         tokenizer->Encode(text, SpecialText::kAsText));
    for (size_t cut = 0; cut <= text.size(); ++cut) {
      const absl::string_view view = text;
      const std::vector<TextRun> runs = {{view.substr(0, cut)}, {view.substr(cut)}};
      ASSERT_OK_AND_ASSIGN(const EncodedRuns encoded, tokenizer->EncodeRuns(runs));
      EXPECT_EQ(encoded.ids, whole) << cut;
    }
  }
}

}  // namespace
}  // namespace evolora
