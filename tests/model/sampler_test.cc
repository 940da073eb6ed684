#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <vector>

#include "row_text.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

std::map<TokenId, int> Draw(const std::vector<float>& logits, const Sampling& sampling, int count) {
  Random random(7);
  std::map<TokenId, int> seen;
  for (int i = 0; i < count; ++i) {
    ++seen[SampleToken(logits.data(), static_cast<int64_t>(logits.size()), sampling, random)];
  }
  return seen;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(Draw({1, 3, 3, 2}, {}, 5), (std::map<TokenId, int>{{1, 5}}));
}

TEST(Sampler, DrawsFollowTheProbabilities) {
  const std::vector<float> logits = {std::log(0.6f), std::log(0.3f), std::log(0.1f)};
  std::map<TokenId, int> seen = Draw(logits, {.temperature = 1}, 20000);
  EXPECT_NEAR(seen[0], 12000, 300);
  EXPECT_NEAR(seen[1], 6000, 300);
  EXPECT_NEAR(seen[2], 2000, 200);
  // Temperature 0.5 squares the odds: 36 : 9 : 1.
  seen = Draw(logits, {.temperature = 0.5}, 20000);
  EXPECT_NEAR(seen[2], 20000 / 46.0, 100);
}

TEST(Sampler, TopKAndTopPCutTheTail) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.4f)};
  EXPECT_EQ(Draw(logits, {.temperature = 1, .top_k = 1}, 100), (std::map<TokenId, int>{{1, 100}}));
  EXPECT_EQ(Draw(logits, {.temperature = 1, .top_k = 2}, 100).count(0), 0u);
  EXPECT_EQ(Draw(logits, {.temperature = 1, .top_p = 0.45}, 100),
            (std::map<TokenId, int>{{1, 100}}));
  EXPECT_EQ(Draw(logits, {.temperature = 1, .top_p = 0.85}, 100).count(0), 0u);
  EXPECT_EQ(Draw(logits, {.temperature = 1, .top_p = 0.95}, 1000).size(), 3u);
}

// The definition, by ranking every token.
TokenId SampleByFullRanking(const std::vector<float>& logits, const Sampling& sampling,
                            Random& random) {
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(),
                   [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  if (sampling.top_k > 0) ids.resize(std::min(ids.size(), static_cast<size_t>(sampling.top_k)));
  std::vector<double> masses;
  for (const TokenId id : ids) {
    const double gap = static_cast<double>(logits[id]) - logits[ids[0]];
    masses.push_back(std::exp(gap / sampling.temperature));
  }
  const double total = std::accumulate(masses.begin(), masses.end(), 0.0);
  size_t count = 0;
  double kept = 0;
  while (count < ids.size() && kept < sampling.top_p * total) kept += masses[count++];
  double left = random.NextDouble() * kept;
  for (size_t i = 0; i < count; ++i) {
    if (left < masses[i]) return ids[i];
    left -= masses[i];
  }
  return ids[count - 1];
}

TEST(Sampler, DrawsWhatAFullRankingDraws) {
  Random values(3);
  for (const double spread : {0.0, 0.5, 8.0}) {
    std::vector<float> logits;
    for (int i = 0; i < 3000; ++i) {
      // Rounded, so that many are equal.
      logits.push_back(std::round(static_cast<float>(values.NextDouble() * spread * 20)) / 20);
    }
    for (const Sampling& sampling :
         {Sampling{.temperature = 1}, Sampling{.temperature = 0.7, .top_p = 0.9},
          Sampling{.temperature = 1.5, .top_p = 0.999}, Sampling{.temperature = 1, .top_k = 5},
          Sampling{.temperature = 2, .top_p = 0.5, .top_k = 2000}}) {
      Random a(7), b(7);
      for (int i = 0; i < 100; ++i) {
        ASSERT_EQ(SampleToken(logits.data(), 3000, sampling, a),
                  SampleByFullRanking(logits, sampling, b))
            << "spread " << spread << ", top_p " << sampling.top_p << ", draw " << i;
      }
    }
  }
}

TEST(Sampler, RefusesValuesOutOfRange) {
  EXPECT_TRUE(CheckSampling({.temperature = 2, .top_p = 1, .top_k = 5}).ok());
  for (const Sampling& bad :
       {Sampling{.temperature = -0.1}, Sampling{.temperature = std::nan("")},
        Sampling{.temperature = std::numeric_limits<double>::infinity()}, Sampling{.top_p = 1.1},
        Sampling{.top_p = 0}, Sampling{.top_p = std::nan("")}, Sampling{.top_k = -1}}) {
    EXPECT_THAT(CheckSampling(bad), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(" = ")));
  }
}

// A token per byte.
class ByteTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<TokenId>> Encode(absl::string_view, SpecialText) const override {
    return absl::UnimplementedError("not used");
  }
  absl::StatusOr<std::string> Decode(absl::Span<const TokenId> ids) const override {
    std::string text;
    for (TokenId id : ids) text += static_cast<char>(id);
    return text;
  }
  std::string TokenBytes(TokenId id) const override {
    return std::string(1, static_cast<char>(id));
  }
  int32_t vocab_size() const override { return 256; }
  bool IsSpecial(TokenId) const override { return false; }
  TokenId bos_id() const override { return -1; }
  TokenId eos_id() const override { return -1; }
  bool adds_bos() const override { return false; }
  TokenId SpecialId(absl::string_view) const override { return -1; }
};

// Pushes the bytes of `bytes` until the text stops; returns the text and how many were pushed.
std::pair<std::string, size_t> PushAll(RowText& text, const std::string& bytes) {
  size_t count = 0;
  while (count < bytes.size()) {
    if (text.Push(static_cast<uint8_t>(bytes[count++]))) break;
  }
  return {text.Finish(), count};
}

TEST(RowText, EndsBeforeTheFirstStopStringAcrossPieces) {
  RowText text(std::make_shared<ByteTokenizer>(), {"END", "xy"});
  EXPECT_EQ(PushAll(text, "abcENxENDxy"), (std::pair<std::string, size_t>{"abcENx", 9}));
  EXPECT_EQ(text.NumIdsKept(), 6u);
}

TEST(RowText, CountsOnlyIdsInFrontOfTheStopString) {
  RowText all(std::make_shared<ByteTokenizer>(), {});
  for (TokenId id : {'a', 'b'}) EXPECT_FALSE(all.Push(id));
  EXPECT_FALSE(all.Push(999));  // not in the vocabulary: no text, still an id
  EXPECT_EQ(all.NumIdsKept(), 3u);
}

TEST(RowText, KeepsAStopStringsBeginningAndMendsACutCharacter) {
  RowText text(std::make_shared<ByteTokenizer>(), {"STOP"});
  EXPECT_EQ(PushAll(text, "ok STO\xC3").first, "ok STO\xEF\xBF\xBD");
}

TEST(RowText, WithoutATokenizerThereIsNoText) {
  RowText text(nullptr, {});
  EXPECT_FALSE(text.Push(3));
  EXPECT_EQ(text.Finish(), "");
}

}  // namespace
}  // namespace evolora
