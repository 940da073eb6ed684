#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "data/tokenizer_golden.h"
#include "evolora/data/tokenizer_spec.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::GoldenText;
using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Letters a, b, c and some joins; the split takes runs of letters.
TokenizerSpec LetterSpec() {
  TokenizerSpec spec;
  spec.tokens = {"a", "b", "c", "ab", "bc", "abc", "<x>"};
  spec.merges = {{"b", "c"}, {"a", "b"}, {"a", "bc"}};
  spec.added_tokens = {{.id = 6, .text = "<x>"}};
  spec.split_patterns = {R"(\p{L}+)"};
  return spec;
}

std::vector<TokenId> Encode(const TokenizerSpec& spec, const std::string& text) {
  const auto tokenizer = MakeTokenizer(spec);
  EXPECT_THAT(tokenizer, IsOk());
  if (!tokenizer.ok()) return {};
  const auto ids = (*tokenizer)->Encode(text, SpecialText::kAsTokens);
  EXPECT_THAT(ids, IsOk());
  return ids.ok() ? *ids : std::vector<TokenId>{};
}

TEST(Bpe, MergesTheLowestRankFirstNotTheFirstPair) {
  EXPECT_THAT(Encode(LetterSpec(), "abc"), ElementsAre(5));  // bc, then a + bc
  EXPECT_THAT(Encode(LetterSpec(), "abab"), ElementsAre(3, 3));
  EXPECT_THAT(Encode(LetterSpec(), "a<x>bc"), ElementsAre(0, 6, 4));
}

TEST(Bpe, IgnoreMergesTakesAWholePieceThatIsAToken) {
  TokenizerSpec spec = LetterSpec();
  spec.merges = {{"a", "b"}};
  EXPECT_THAT(Encode(spec, "abc"), ElementsAre(3, 2));
  spec.ignore_merges = true;
  EXPECT_THAT(Encode(spec, "abc"), ElementsAre(5));
}

TEST(Bpe, BytesWithoutATokenAreDroppedOrUnknown) {
  TokenizerSpec spec = LetterSpec();
  EXPECT_THAT(Encode(spec, "azzb"), ElementsAre(3));  // as the reference: what is left joins
  spec.tokens.push_back("?");
  spec.unk_id = 7;
  EXPECT_THAT(Encode(spec, "azzb"), ElementsAre(0, 7, 7, 1));
  spec.fuse_unk = true;
  EXPECT_THAT(Encode(spec, "azzb"), ElementsAre(0, 7, 1));
}

TEST(Bpe, LongAndShortWordsMergeAlike) {
  const TokenizerSpec spec = LetterSpec();
  for (size_t n = 1; n < 90; ++n) {  // scan up to 40 symbols, heap above
    std::string text;
    std::vector<TokenId> expected;
    for (size_t i = 0; i < n; ++i) {
      text += i % 3 == 2 ? "cab" : "abc";
      if (i % 3 == 2) {
        expected.insert(expected.end(), {2, 3});
      } else {
        expected.push_back(5);
      }
    }
    ASSERT_EQ(Encode(spec, text), expected) << n;
  }
}

TEST(Bpe, AMillionBytesWithoutASplitStayFast) {
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec spec,
                       TokenizerSpecFromHfJson(GoldenText("gpt2_2000.json"), ""));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  for (const char c : {'a', ' ', '\n', '!', '1'}) {
    const std::string text(1'000'000, c);
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->Encode(text, SpecialText::kAsText));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    EXPECT_LT(seconds.count(), 15.0) << static_cast<int>(c);  // quadratic would take minutes
    ASSERT_OK_AND_ASSIGN(const std::string decoded, tokenizer->Decode(ids));
    EXPECT_EQ(decoded, text);
  }
}

TEST(Bpe, ASplitThatBacktracksTooFarIsRefusedAtEncode) {
  TokenizerSpec spec = LetterSpec();
  spec.split_patterns = {"(?:(?:a|aa)+)+[bc]"};
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  EXPECT_THAT(tokenizer->Encode(std::string(60, 'a') + " b", SpecialText::kAsText),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("at byte 0")));
}

TEST(Bpe, RefusesPatternsOutsideTheCommonSubset) {
  const struct {
    const char* pattern;
    absl::StatusCode code;
    const char* message;
  } rows[] = {
      {"(?<=a)b", absl::StatusCode::kUnimplemented, "'(?' at byte 0"},
      {"a(?#x)", absl::StatusCode::kUnimplemented, "'(?' at byte 1"},
      {"(*UTF)a", absl::StatusCode::kUnimplemented, "'(*'"},
      {"^a", absl::StatusCode::kUnimplemented, "'^'"},
      {"a$", absl::StatusCode::kUnimplemented, "'$'"},
      {"a.", absl::StatusCode::kUnimplemented, "'.'"},
      {"a{2}+", absl::StatusCode::kUnimplemented, "'}' followed by"},
      {"a{,3}", absl::StatusCode::kUnimplemented, "'{'"},
      {"[[:alpha:]]", absl::StatusCode::kUnimplemented, "'[' inside a class"},
      {"[a&&b]", absl::StatusCode::kUnimplemented, "'&&'"},
      {"[ab", absl::StatusCode::kUnimplemented, "'[' without ']'"},
      {"[\\S]", absl::StatusCode::kUnimplemented, "'\\S'"},
      {"\\w+", absl::StatusCode::kUnimplemented, "'\\w'"},
      {"\\1", absl::StatusCode::kUnimplemented, "'\\1'"},
      {"\\p{Han}", absl::StatusCode::kUnimplemented, "property 'Han'"},
      {"\\p{L", absl::StatusCode::kUnimplemented, "'\\p'"},
      {"a\\", absl::StatusCode::kUnimplemented, "byte 1"},
      {"(a", absl::StatusCode::kInvalidArgument, "parenthesis"},
      {"a*", absl::StatusCode::kInvalidArgument, "can match nothing"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.pattern);
    TokenizerSpec spec = LetterSpec();
    spec.split_patterns = {R"(\s+)", row.pattern};
    const auto tokenizer = MakeTokenizer(spec);
    EXPECT_THAT(tokenizer, StatusIs(row.code, HasSubstr(row.message)));
    EXPECT_THAT(tokenizer, StatusIs(row.code, HasSubstr("split_patterns[1]")));
  }
}

TEST(Bpe, RefusesContradictions) {
  const struct {
    const char* name;
    void (*spoil)(TokenizerSpec&);
    const char* message;
  } rows[] = {
      {"none", [](TokenizerSpec& s) { s.tokens.clear(); }, "no tokens"},
      {"twice", [](TokenizerSpec& s) { s.tokens[1] = "a"; }, "tokens 0 and 1 have the same text"},
      {"merge",
       [](TokenizerSpec& s) {
         s.merges[1] = {"a", "c"};
       },
       "merge 1 ('a' 'c'): 'ac'"},
      {"merge twice",
       [](TokenizerSpec& s) {
         s.merges[1] = {"b", "c"};
       },
       "merge 1"},
      {"merge to special",
       [](TokenizerSpec& s) {
         s.tokens[5] = "<";
         s.tokens.push_back("x>");
         s.merges = {{"<", "x>"}};
       },
       "'<x>' is not a token"},
      {"added id", [](TokenizerSpec& s) { s.added_tokens[0].id = 7; }, "has id 7"},
      {"added empty", [](TokenizerSpec& s) { s.added_tokens[0].text = ""; }, "token 6 is empty"},
      {"added twice", [](TokenizerSpec& s) { s.added_tokens.push_back(s.added_tokens[0]); },
       "twice"},
      {"unk", [](TokenizerSpec& s) { s.unk_id = 70; }, "unk id 70"},
      {"long", [](TokenizerSpec& s) { s.tokens[0] = std::string(70000, 'a'); }, "token 0"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.name);
    TokenizerSpec spec = LetterSpec();
    row.spoil(spec);
    EXPECT_THAT(MakeTokenizer(spec),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
}

TEST(Gguf, ByteLevelVocabularyKnowsItsSpecialTokens) {
  GgufVocabulary gguf{.model = "gpt2", .pre = "smollm"};
  gguf.tokens = {"<|im_end|>", "a", "b", "ab", "1", "<tool>"};
  gguf.merges = {"a b"};
  gguf.token_types = {3, 1, 1, 1, 1, 4};
  gguf.eos_id = 0;
  gguf.unk_id = 0;
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec spec, TokenizerSpecFromGguf(gguf));
  EXPECT_FALSE(spec.adds_bos);
  EXPECT_THAT(Encode(spec, "ab11<|im_end|><tool>"), ElementsAre(3, 4, 4, 0, 5));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  EXPECT_TRUE(tokenizer->IsSpecial(0));
  EXPECT_FALSE(tokenizer->IsSpecial(5));
  ASSERT_OK_AND_ASSIGN(const std::string text, tokenizer->Decode({3, 0, 5}));
  EXPECT_EQ(text, "ab<tool>");
}

TEST(Gguf, PreTokenizerNamesSetWhatTheirModelsNeed) {
  GgufVocabulary gguf{.model = "gpt2", .pre = "qwen2", .tokens = {"a"}};
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec qwen, TokenizerSpecFromGguf(gguf));
  EXPECT_TRUE(qwen.nfc);
  gguf.pre = "llama-bpe";
  gguf.bos_id = 0;
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec llama, TokenizerSpecFromGguf(gguf));
  EXPECT_TRUE(llama.ignore_merges);
  EXPECT_TRUE(llama.adds_bos);
  gguf.add_bos = false;
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec plain, TokenizerSpecFromGguf(gguf));
  EXPECT_FALSE(plain.adds_bos);
}

TEST(Tokenizer, ManyThreadsEncodeAlike) {
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec spec,
                       TokenizerSpecFromHfJson(GoldenText("gpt2_2000.json"), ""));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  const std::string text = "The quick brown fox, it's 2024.\n<|endoftext|> and then some";
  ASSERT_OK_AND_ASSIGN(const auto expected, tokenizer->Encode(text, SpecialText::kAsTokens));
  std::vector<std::thread> threads;
  std::vector<int> num_equal(4, 0);
  for (size_t t = 0; t < num_equal.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const auto ids = tokenizer->Encode(text, SpecialText::kAsTokens);
        num_equal[t] += ids.ok() && *ids == expected ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(num_equal, ::testing::Each(200));
}

}  // namespace
}  // namespace evolora
