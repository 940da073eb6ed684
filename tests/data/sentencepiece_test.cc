#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizer_golden.h"
#include "evolora/data/tokenizer_spec.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::Corpus;
using ::evolora::testing::ExpectGolden;
using ::evolora::testing::GoldenText;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

TokenizerSpec SpecOf(const std::string& model) {
  absl::StatusOr<TokenizerSpec> spec = TokenizerSpecFromSentencePiece(GoldenText(model));
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : TokenizerSpec{};
}

GgufVocabulary GgufOf(const TokenizerSpec& spec) {
  GgufVocabulary gguf{.model = "llama", .tokens = spec.tokens, .scores = spec.scores};
  for (const TokenType type : spec.types) gguf.token_types.push_back(static_cast<int32_t>(type));
  gguf.bos_id = spec.bos_id;
  gguf.eos_id = spec.eos_id;
  gguf.unk_id = spec.unk_id;
  gguf.remove_extra_whitespaces = spec.remove_extra_whitespaces;
  return gguf;
}

TEST(SentencePiece, BpeModelEncodesAndDecodesAsTheReference) {
  const TokenizerSpec spec = SpecOf("tok512.model");
  EXPECT_EQ(spec.kind, TokenizerKind::kSentencePieceBpe);
  EXPECT_TRUE(spec.byte_fallback);
  EXPECT_EQ(spec.bos_id, 1);
  EXPECT_EQ(spec.eos_id, 2);
  EXPECT_TRUE(spec.adds_bos);
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  ExpectGolden("tok512.model", tokenizer);
}

TEST(SentencePiece, UnigramModelWithCharsmapEncodesAndDecodesAsTheReference) {
  const TokenizerSpec spec = SpecOf("test_model.model");
  EXPECT_EQ(spec.kind, TokenizerKind::kSentencePieceUnigram);
  EXPECT_FALSE(spec.precompiled_charsmap.empty());
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  // Versions of the library break ties between runs of these differently.
  std::string corpus = Corpus();
  std::erase_if(corpus, [](char c) { return c == '-' || c == '.'; });
  ExpectGolden("test_model.model", tokenizer, corpus);
}

TEST(SentencePiece, GgufPiecesAndScoresGiveTheModelsTokenizer) {
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec spec,
                       TokenizerSpecFromGguf(GgufOf(SpecOf("tok512.model"))));
  EXPECT_TRUE(spec.adds_bos);
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  ExpectGolden("tok512.model", tokenizer);
}

TEST(SentencePiece, RunsThatShareAWordKnowWhereEachIdEnds) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(SpecOf("tok512.model")));
  const std::vector<TextRun> runs = {{"one d"},
                                     {"ay \xE4\xBD"},
                                     {"\xA0"},
                                     {"</s>", SpecialText::kAsTokens},
                                     {"</s>", SpecialText::kAsText}};
  ASSERT_OK_AND_ASSIGN(const EncodedRuns encoded, tokenizer->EncodeRuns(runs));
  ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> first,
                       tokenizer->Encode("one day \xE4\xBD\xA0", SpecialText::kAsText));
  EXPECT_EQ(std::vector<TokenId>(encoded.ids.begin(), encoded.ids.begin() + first.size()), first);
  EXPECT_EQ(encoded.ids[first.size()], tokenizer->eos_id());
  EXPECT_EQ(encoded.run_of_id[first.size()], 3);
  EXPECT_EQ(encoded.run_of_id[0], 0);
  EXPECT_EQ(encoded.run_of_id.back(), 4);
  EXPECT_EQ(std::count(encoded.ids.begin(), encoded.ids.end(), tokenizer->eos_id()), 1);
}

TEST(SentencePiece, DecodeRemovesOneDummyPrefixOnly) {
  TokenizerSpec spec = SpecOf("tok512.model");
  spec.remove_extra_whitespaces = false;
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->Encode("  two", SpecialText::kAsText));
  ASSERT_OK_AND_ASSIGN(const std::string text, tokenizer->Decode(ids));
  EXPECT_EQ(text, "  two");
}

TEST(SentencePiece, RefusesContradictions) {
  const TokenizerSpec good = SpecOf("tok512.model");
  const struct {
    const char* name;
    void (*spoil)(TokenizerSpec&);
    const char* message;
  } rows[] = {
      {"empty piece", [](TokenizerSpec& s) { s.tokens[300] = ""; }, "piece 300 is empty"},
      {"NUL", [](TokenizerSpec& s) { s.tokens[300] = std::string("a\0b", 3); }, "300 holds NUL"},
      {"twice", [](TokenizerSpec& s) { s.tokens[300] = s.tokens[301]; }, "piece 301 stands twice"},
      {"NaN", [](TokenizerSpec& s) { s.scores[5] = std::nanf(""); }, "piece 5 has a score"},
      {"lengths", [](TokenizerSpec& s) { s.scores.pop_back(); }, "511 scores"},
      {"no unk", [](TokenizerSpec& s) { s.types[0] = TokenType::kControl; }, "0 unknown pieces"},
      {"two unk", [](TokenizerSpec& s) { s.types[1] = TokenType::kUnknown; }, "2 unknown pieces"},
      {"bos", [](TokenizerSpec& s) { s.bos_id = 512; }, "bos id 512"},
      {"bos missing", [](TokenizerSpec& s) { s.bos_id = -1; }, "adds BOS"},
      {"utf-8", [](TokenizerSpec& s) { s.tokens[300] = "\xFF"; }, "token 300 is not UTF-8"},
      {"no bytes", [](TokenizerSpec& s) { s.types[5] = TokenType::kNormal; }, "SentencePiece"},
      {"charsmap", [](TokenizerSpec& s) { s.precompiled_charsmap = "abc"; }, "charsmap"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.name);
    TokenizerSpec spec = good;
    row.spoil(spec);
    EXPECT_THAT(MakeTokenizer(spec),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
}

TEST(SentencePiece, RefusesACharsmapThatLeavesItsArray) {
  TokenizerSpec spec = SpecOf("test_model.model");
  // Unit 0 sits behind the four bytes of the trie's size; its offset now leads far outside.
  for (size_t i = 4; i < 8; ++i) spec.precompiled_charsmap[i] = '\x7F';
  EXPECT_THAT(MakeTokenizer(spec),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("unit 0 leads to")));
}

TEST(SentencePiece, RefusesTornModelsWithTheByte) {
  const std::string model = GoldenText("tok512.model");
  EXPECT_THAT(TokenizerSpecFromSentencePiece(model.substr(0, 1000)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("protobuf at byte")));
  EXPECT_THAT(TokenizerSpecFromSentencePiece(""),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("without pieces")));
}

TEST(GgufVocabulary, RefusesUnknownKindsByName) {
  GgufVocabulary gguf{.model = "bert", .tokens = {"a"}};
  EXPECT_THAT(TokenizerSpecFromGguf(gguf),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("'bert'")));
  gguf.model = "gpt2";
  gguf.pre = "deepseek-llm";
  EXPECT_THAT(TokenizerSpecFromGguf(gguf),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("'deepseek-llm'")));
  gguf.pre = "gpt-2";
  gguf.merges = {"ab"};
  EXPECT_THAT(TokenizerSpecFromGguf(gguf),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("merges[0]")));
  gguf.merges = {};
  gguf.token_types = {9};
  EXPECT_THAT(TokenizerSpecFromGguf(gguf),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("token_type[0] = 9")));
  gguf.token_types = {1, 1};
  EXPECT_THAT(TokenizerSpecFromGguf(gguf),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 entries for 1")));
  GgufVocabulary llama{.model = "llama", .tokens = {"a"}};
  EXPECT_THAT(TokenizerSpecFromGguf(llama),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 entries for 1")));
}

}  // namespace
}  // namespace evolora
