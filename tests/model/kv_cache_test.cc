#include "kv_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "evolora/core/random.h"
#include "evolora/model/kernels.h"
#include "model/random_model.h"

namespace evolora {
namespace {

using testing::SmallConfig;

constexpr int64_t kPositions = KvPool::kPositions;

// Keys and values of all positions and layers of a row.
struct Row {
  Row(const LlamaConfig& config, int64_t length, uint64_t seed)
      : width(config.num_kv_heads * config.head_dim), num_layers(config.num_layers) {
    Random random(seed);
    for (int64_t i = 0; i < 2 * length * num_layers * width; ++i) {
      numbers.push_back(static_cast<float>(random.NextDouble()));
    }
  }
  const float* key(int64_t layer, int64_t position) const {
    return numbers.data() + (position * num_layers + layer) * 2 * width;
  }
  const float* value(int64_t layer, int64_t position) const { return key(layer, position) + width; }

  int64_t width, num_layers;
  std::vector<float> numbers;
};

class KvCacheTest : public ::testing::TestWithParam<int64_t> {
 protected:
  static LlamaConfig WithHeads(int64_t head_dim) {
    LlamaConfig config = SmallConfig();
    config.head_dim = head_dim;
    return config;
  }

  void Put(const Row& row, int64_t begin, int64_t end, KvCache& cache) const {
    cache.Grow(end);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
        cache.Put(layer, t, row.key(layer, t), row.value(layer, t));
      }
    }
    cache.set_length(end);
  }

  // Whether the panels hold positions [begin, end) of the row.
  void ExpectHolds(const KvCache& cache, const Row& row, int64_t begin, int64_t end) const {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
        for (int64_t i = 0; i < row.width; ++i) {
          const int64_t head = i / config_.head_dim, e = i % config_.head_dim;
          const int64_t block = t / kPositions, place = t % kPositions;
          ASSERT_EQ(cache.KeyPanel(layer, head, block)[e * kPositions + place],
                    row.key(layer, t)[i])
              << "position " << t << ", layer " << layer << ", element " << i;
          ASSERT_EQ(cache.ValuePanel(layer, head, e / kPanelColumns,
                                     block)[place * kPanelColumns + e % kPanelColumns],
                    row.value(layer, t)[i])
              << "position " << t << ", layer " << layer << ", element " << i;
        }
      }
    }
  }

  const LlamaConfig config_ = WithHeads(GetParam());
  KvPool pool_{config_};
};

TEST_P(KvCacheTest, HoldsWhatIsPut) {
  const Row row(config_, 70, 1);
  KvCache cache(pool_, 70);
  EXPECT_EQ(pool_.num_lent(), 0);
  Put(row, 0, 5, cache);
  EXPECT_EQ(pool_.num_lent(), 1);
  Put(row, 5, 70, cache);
  ExpectHolds(cache, row, 0, 70);
  EXPECT_EQ(pool_.num_lent(), 3);
  EXPECT_EQ(KvCache::BytesFor(config_, 70), 3 * KvPool::BytesOfBlock(config_));
}

// Whatever either row puts behind the beginning, the other one keeps its own.
TEST_P(KvCacheTest, RowsShareTheWholeBlocksOfACommonBeginning) {
  const Row first(config_, 100, 1), second(config_, 100, 2);
  for (const int64_t count : {5, 31, 32, 33, 64, 70}) {
    SCOPED_TRACE(count);
    KvCache donor(pool_, 100), taker(pool_, 100);
    Put(first, 0, 70, donor);
    taker.TakeBeginning(donor, count);
    EXPECT_EQ(taker.length(), count);
    const int64_t shared = count / kPositions;
    EXPECT_EQ(pool_.num_lent(), 3 + (count % kPositions > 0 ? 1 : 0));
    for (int64_t b = 0; b < shared; ++b) {
      EXPECT_EQ(taker.KeyPanel(0, 0, b), donor.KeyPanel(0, 0, b));
    }
    Put(second, count, 100, taker);
    Put(first, 70, 100, donor);
    ExpectHolds(taker, first, 0, count);
    ExpectHolds(taker, second, count, 100);
    ExpectHolds(donor, first, 0, 100);
  }
  EXPECT_EQ(pool_.num_lent(), 0);
}

TEST_P(KvCacheTest, ABeginningOutlivesItsRow) {
  const Row row(config_, 70, 1);
  std::optional<KvCache> beginning;
  {
    KvCache cache(pool_, 100);
    Put(row, 0, 70, cache);
    beginning = cache.Beginning(40);
    EXPECT_EQ(pool_.num_lent(), 3);
  }
  EXPECT_EQ(pool_.num_lent(), 2);
  EXPECT_EQ(beginning->length(), 40);
  ExpectHolds(*beginning, row, 0, 40);
}

INSTANTIATE_TEST_SUITE_P(HeadsOf, KvCacheTest, ::testing::Values(10, 32, 40),
                         ::testing::PrintToStringParamName());

TEST(KvPool, LendsAgainWhatComesBack) {
  const LlamaConfig config = SmallConfig();
  KvPool pool(config);
  std::shared_ptr<float> block = pool.Take();
  const float* const data = block.get();
  const std::shared_ptr<float> other_holder = block;
  block.reset();
  EXPECT_NE(pool.Take().get(), data);
  EXPECT_EQ(pool.num_lent(), 1);
}

TEST(KvPool, ShrinksAroundWhatIsLent) {
  const LlamaConfig config = SmallConfig();
  KvPool pool(config);
  std::vector<std::shared_ptr<float>> blocks;
  blocks.reserve(30);
  for (int i = 0; i < 30; ++i) blocks.push_back(pool.Take());
  const std::shared_ptr<float> kept = blocks[20];
  *kept = 3;
  blocks.clear();
  pool.Shrink(0);
  EXPECT_EQ(pool.num_lent(), 1);
  EXPECT_EQ(pool.bytes(), 8 * KvPool::BytesOfBlock(config));
  EXPECT_EQ(*kept, 3);
  for (int i = 0; i < 30; ++i) {
    blocks.push_back(pool.Take());
    *blocks.back() = 4;
  }
  EXPECT_EQ(*kept, 3);
  EXPECT_EQ(pool.num_lent(), 31);
}

TEST(KvPool, KeepsWholeSlabsForTheNextRows) {
  const LlamaConfig config = SmallConfig();
  KvPool pool(config);
  const int64_t slab = 8 * KvPool::BytesOfBlock(config);
  for (int round = 0; round < 2; ++round) {
    std::vector<std::shared_ptr<float>> blocks;
    for (int i = 0; i < 30; ++i) {
      blocks.push_back(pool.Take());
      *blocks.back() = static_cast<float>(i);
    }
    EXPECT_EQ(pool.bytes(), 4 * slab);
    for (int i = 0; i < 30; ++i) EXPECT_EQ(*blocks[static_cast<size_t>(i)], i);
    blocks.clear();
    pool.Shrink(3 * slab - 1);
    EXPECT_EQ(pool.bytes(), 2 * slab);
  }
  pool.Shrink(0);
  EXPECT_EQ(pool.bytes(), 0);
}

TEST(KvPool, ABlockMayComeBackAfterThePool) {
  const LlamaConfig config = SmallConfig();
  std::shared_ptr<float> block;
  {
    KvPool pool(config);
    block = pool.Take();
  }
  *block = 1;
  block.reset();
}

}  // namespace
}  // namespace evolora
