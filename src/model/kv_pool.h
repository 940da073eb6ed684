#pragma once

#include <cstdint>
#include <memory>

#include "evolora/model/llama_config.h"

namespace evolora {

// Lends blocks of memory for keys and values (KvCache), taken from the system eight at a time, so
// that they lie on huge pages. Threads: one caller at a time, the deletion of blocks included.
class KvPool {
 public:
  // Positions of a block.
  static constexpr int64_t kPositions = 32;

  // `config` outlives the pool.
  explicit KvPool(const LlamaConfig& config);

  // Undefined contents; comes back when its last holder lets it go, if need be after the pool.
  // Throws std::bad_alloc.
  std::shared_ptr<float> Take();
  // Gives to the system what is lent to nobody, as far as nothing that is lent lies beside it, but
  // for `keep_bytes` at most, which a next row touches without a page fault.
  void Shrink(int64_t keep_bytes);

  const LlamaConfig& config() const { return config_; }
  int64_t num_lent() const;
  // Taken from the system.
  int64_t bytes() const;
  static int64_t BytesOfBlock(const LlamaConfig& config);

 private:
  struct Slabs;

  const LlamaConfig& config_;
  std::shared_ptr<Slabs> slabs_;
};

}  // namespace evolora
