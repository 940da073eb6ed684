#include "kv_pool.h"

#include <vector>

#include "evolora/core/float_memory.h"
#include "evolora/model/kernels.h"

namespace evolora {
namespace {

constexpr int64_t kBlocksOfSlab = 8;

}  // namespace

struct KvPool::Slabs {
  struct Slab {
    FloatMemory memory;
    int64_t num_lent = 0;
    bool is_kept = true;
  };
  struct Block {
    float* data;
    Slab* slab;
  };

  void Add(int64_t floats) {
    free.reserve((slabs.size() + 1) * kBlocksOfSlab);  // so that no return of a block allocates
    slabs.push_back(std::make_unique<Slab>(Slab{AllocateFloats(kBlocksOfSlab * floats)}));
    Slab* slab = slabs.back().get();
    for (int64_t i = kBlocksOfSlab; i-- > 0;)
      free.push_back({slab->memory.get() + i * floats, slab});
  }

  std::vector<std::unique_ptr<Slab>> slabs;
  std::vector<Block> free;  // the last is lent next
};

KvPool::KvPool(const LlamaConfig& config) : config_(config), slabs_(std::make_shared<Slabs>()) {}

int64_t KvPool::BytesOfBlock(const LlamaConfig& c) {
  const int64_t value_panels = (c.head_dim + kPanelColumns - 1) / kPanelColumns;
  return static_cast<int64_t>(sizeof(float)) * c.num_layers * c.num_kv_heads * kPositions *
         (c.head_dim + value_panels * kPanelColumns);
}

std::shared_ptr<float> KvPool::Take() {
  if (slabs_->free.empty()) {
    slabs_->Add(BytesOfBlock(config_) / static_cast<int64_t>(sizeof(float)));
  }
  const Slabs::Block block = slabs_->free.back();
  slabs_->free.pop_back();
  ++block.slab->num_lent;
  return {block.data, [slabs = slabs_, block](float*) {
            --block.slab->num_lent;
            slabs->free.push_back(block);
          }};
}

void KvPool::Shrink(int64_t keep_bytes) {
  int64_t room = keep_bytes / (kBlocksOfSlab * BytesOfBlock(config_));  // in slabs
  for (const auto& slab : slabs_->slabs) slab->is_kept = slab->num_lent > 0 || room-- > 0;
  std::erase_if(slabs_->free, [](const Slabs::Block& block) { return !block.slab->is_kept; });
  std::erase_if(slabs_->slabs, [](const auto& slab) { return !slab->is_kept; });
}

int64_t KvPool::bytes() const {
  return static_cast<int64_t>(slabs_->slabs.size()) * kBlocksOfSlab * BytesOfBlock(config_);
}

int64_t KvPool::num_lent() const {
  return static_cast<int64_t>(slabs_->slabs.size()) * kBlocksOfSlab -
         static_cast<int64_t>(slabs_->free.size());
}

}  // namespace evolora
