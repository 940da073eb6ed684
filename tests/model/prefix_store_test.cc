#include "prefix_store.h"

#include <gtest/gtest.h>

#include "model/random_model.h"

namespace evolora {
namespace {

using testing::SmallConfig;

class PrefixStoreTest : public ::testing::Test {
 protected:
  // A kept prompt of so many positions.
  int64_t BytesOf(int64_t positions) const { return KvCache::BytesFor(config_, positions); }
  void Keep(PrefixStore& store, const std::vector<TokenId>& prompt,
            const PackedLora* lora = nullptr) {
    KvCache cache(pool_, 200);
    cache.Grow(static_cast<int64_t>(prompt.size()));
    cache.set_length(static_cast<int64_t>(prompt.size()));
    store.Keep(lora, prompt, cache);
  }
  static std::vector<TokenId> Prompt(TokenId first, size_t size) {
    std::vector<TokenId> prompt(size, 7);
    prompt[0] = first;
    return prompt;
  }

  const LlamaConfig config_ = SmallConfig();
  KvPool pool_{config_};
  // Only compared, never read.
  const PackedLora* const adapter_ = reinterpret_cast<const PackedLora*>(this);
};

TEST_F(PrefixStoreTest, FindsTheLongestBeginningUnderTheSameAdapter) {
  PrefixStore store(config_, 10 * BytesOf(64));
  Keep(store, {1, 2, 3, 4});
  Keep(store, {1, 2, 9});
  Keep(store, {1, 2, 3, 5, 6}, adapter_);
  EXPECT_EQ(store.Find(nullptr, {1, 2, 3, 5, 6}).count, 3);
  EXPECT_EQ(store.Find(adapter_, {1, 2, 3, 5, 6, 7}).count, 5);
  EXPECT_EQ(store.Find(nullptr, {2}).count, 0);
  EXPECT_EQ(store.Find(nullptr, {2}).cache, nullptr);
}

TEST_F(PrefixStoreTest, ForgetsTheLongestUnusedOverItsLimit) {
  PrefixStore store(config_, 3 * BytesOf(40));
  for (const TokenId first : {1, 2, 3}) Keep(store, Prompt(first, 40));
  EXPECT_EQ(store.num_bytes(), 3 * BytesOf(40));
  EXPECT_EQ(store.Find(nullptr, Prompt(1, 40)).count, 40);
  Keep(store, Prompt(4, 40));
  EXPECT_EQ(store.num_bytes(), 3 * BytesOf(40));
  EXPECT_EQ(store.Find(nullptr, Prompt(2, 40)).count, 0);
  EXPECT_EQ(store.Find(nullptr, Prompt(1, 40)).count, 40);
  Keep(store, Prompt(5, 199));  // larger than the store
  EXPECT_EQ(store.Find(nullptr, Prompt(4, 40)).count, 40);
}

TEST_F(PrefixStoreTest, KeepsNoPromptTwiceAndNoBeginningOfAnother) {
  PrefixStore store(config_, 10 * BytesOf(64));
  Keep(store, Prompt(1, 33));
  Keep(store, Prompt(1, 33));
  Keep(store, Prompt(1, 10));
  EXPECT_EQ(store.num_bytes(), BytesOf(33));
  Keep(store, Prompt(1, 100));
  EXPECT_EQ(store.num_bytes(), BytesOf(100));
}

TEST_F(PrefixStoreTest, CountsOnceWhatPromptsShare) {
  PrefixStore store(config_, 6 * BytesOf(32));
  std::vector<TokenId> first = Prompt(1, 100), second = first, third = Prompt(2, 30);
  second[70] = 3;
  KvCache cache(pool_, 100), other(pool_, 100);
  cache.Grow(100);
  cache.set_length(100);
  other.TakeBeginning(cache, 70);
  other.Grow(100);
  other.set_length(100);
  store.Keep(nullptr, first, cache);
  EXPECT_EQ(store.num_bytes(), 4 * BytesOf(32));
  store.Keep(nullptr, second, other);
  EXPECT_EQ(store.num_bytes(), 6 * BytesOf(32));
  EXPECT_EQ(store.Find(nullptr, first).count, 100);
  EXPECT_EQ(store.Find(nullptr, second).count, 100);
  Keep(store, third);  // no room beside both
  EXPECT_EQ(store.num_bytes(), 5 * BytesOf(32));
  EXPECT_EQ(store.Find(nullptr, first).count, 70);
}

TEST_F(PrefixStoreTest, ForgetsAnAdapter) {
  PrefixStore store(config_, 10 * BytesOf(64));
  Keep(store, {1, 2, 3});
  Keep(store, {1, 2, 3}, adapter_);
  store.Forget(adapter_);
  EXPECT_EQ(store.Find(adapter_, {1, 2, 3}).count, 0);
  EXPECT_EQ(store.Find(nullptr, {1, 2, 3}).count, 3);
  EXPECT_EQ(store.num_bytes(), BytesOf(3));
}

TEST_F(PrefixStoreTest, OfNoBytesKeepsNothing) {
  PrefixStore store(config_, 0);
  Keep(store, {1});
  EXPECT_EQ(store.num_bytes(), 0);
}

}  // namespace
}  // namespace evolora
