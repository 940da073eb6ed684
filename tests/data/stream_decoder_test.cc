#include "evolora/data/stream_decoder.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer_golden.h"
#include "evolora/data/tokenizer_spec.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::GoldenText;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

std::shared_ptr<const Tokenizer> Gpt2() {
  auto spec = TokenizerSpecFromHfJson(GoldenText("gpt2_2000.json"), "");
  EXPECT_TRUE(spec.ok()) << spec.status();
  auto tokenizer = MakeTokenizer(*spec);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

// The id of each byte: GPT-2 gives every byte a token.
std::vector<TokenId> ByteIds(const Tokenizer& tokenizer) {
  std::vector<TokenId> ids(256, -1);
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string bytes = tokenizer.TokenBytes(id);
    if (bytes.size() == 1) ids[static_cast<uint8_t>(bytes[0])] = id;
  }
  return ids;
}

// Expected texts are Python's bytes.decode("utf-8", errors="replace").
TEST(ReplaceInvalidUtf8, EqualsPythonsReplacement) {
  const struct {
    std::string bytes, text;
  } rows[] = {
      {"", ""},
      {"abc", "abc"},
      {"\xC3\xA9", "\xC3\xA9"},
      {"\xFF", "\uFFFD"},
      {"\x80\x80", "\uFFFD\uFFFD"},
      {"a\xC3", "a\uFFFD"},
      {"\xC3(", "\uFFFD("},
      {"\xE4\xBD", "\uFFFD"},
      {"\xE4\xBDx", "\uFFFDx"},
      {"\xF0\x9F\x98", "\uFFFD"},
      {"\xF0\x9F\x98\xF0\x9F\x98\x80", "\uFFFD\U0001F600"},
      {"\xC0\xAF", "\uFFFD\uFFFD"},
      {"\xE0\x80\xAF", "\uFFFD\uFFFD\uFFFD"},
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xF0\x80\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xF5\x80", "\uFFFD\uFFFD"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
       "A",
       "\uFFFD\uFFFD\uFFFD\uFFFD"
       "A"},
  };
  for (const auto& row : rows) EXPECT_EQ(ReplaceInvalidUtf8(row.bytes), row.text);
}

TEST(StreamDecoder, HoldsBackUnfinishedCharacters) {
  const auto tokenizer = Gpt2();
  const std::vector<TokenId> ids = ByteIds(*tokenizer);
  StreamDecoder decoder(tokenizer);
  const std::string emoji = "\U0001F600";
  for (size_t i = 0; i < emoji.size(); ++i) {
    ASSERT_OK_AND_ASSIGN(const std::string text, decoder.Push(ids[static_cast<uint8_t>(emoji[i])]));
    EXPECT_EQ(text, i + 1 < emoji.size() ? "" : emoji);
  }
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(StreamDecoder, StreamsEveryByteStringAsItsReplacement) {
  const auto tokenizer = Gpt2();
  const std::vector<TokenId> ids = ByteIds(*tokenizer);
  const uint8_t kBytes[] = {'a', 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xED, 0xF0, 0x90, 0xF4, 0xFF};
  constexpr size_t kNum = sizeof(kBytes);
  StreamDecoder decoder(tokenizer);
  for (size_t n = 0; n < kNum * kNum * kNum * kNum; ++n) {
    std::string bytes, text;
    for (size_t rest = n, i = 0; i < 4; ++i, rest /= kNum) {
      bytes.push_back(static_cast<char>(kBytes[rest % kNum]));
    }
    for (const char c : bytes) {
      ASSERT_OK_AND_ASSIGN(const std::string piece, decoder.Push(ids[static_cast<uint8_t>(c)]));
      text += piece;
    }
    text += decoder.Finish();
    ASSERT_EQ(text, ReplaceInvalidUtf8(bytes)) << n;
  }
}

TEST(StreamDecoder, FinishReplacesAnUnfinishedCharacterAndStartsAfresh) {
  const auto tokenizer = Gpt2();
  const std::vector<TokenId> ids = ByteIds(*tokenizer);
  StreamDecoder decoder(tokenizer);
  ASSERT_OK_AND_ASSIGN(const std::string held, decoder.Push(ids[0xE4]));
  EXPECT_EQ(held, "");
  EXPECT_EQ(decoder.Finish(), "\uFFFD");
  EXPECT_EQ(decoder.Finish(), "");
  ASSERT_OK_AND_ASSIGN(const std::string next, decoder.Push(ids['x']));
  EXPECT_EQ(next, "x");
}

TEST(StreamDecoder, LeavesSpecialTokensOutAndRefusesForeignIds) {
  const auto tokenizer = Gpt2();
  StreamDecoder decoder(tokenizer);
  ASSERT_OK_AND_ASSIGN(const std::string text, decoder.Push(tokenizer->SpecialId("<|endoftext|>")));
  EXPECT_EQ(text, "");
  EXPECT_THAT(decoder.Push(tokenizer->vocab_size()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2257")));
}

}  // namespace
}  // namespace evolora
