#include "device/graph_cache.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace evolora {

GraphCache::GraphCache(std::shared_ptr<GraphRecorder> recorder, size_t max_graphs)
    : recorder_(std::move(recorder)), max_graphs_(max_graphs) {}

void GraphCache::Run(const BatchShape& shape, const std::function<void()>& body) {
  const auto found = entries_.find(shape);
  if (recorder_ == nullptr || found == entries_.end()) {
    const bool has_room = std::any_of(entries_.begin(), entries_.end(), [&](const auto& entry) {
      return FitsInto(shape, entry.first);
    });
    if (!has_room) {
      for (auto& [other, entry] : entries_) entry.graph.reset();
    }
    entries_[shape].last_use = ++uses_;
    ++counts_.as_is;
    return body();
  }
  Entry& entry = found->second;
  entry.last_use = ++uses_;
  if (entry.graph == nullptr) {
    DropOldest();
    entry.graph = recorder_->Record(body);
    ++counts_.recorded;
  }
  ++counts_.replayed;
  entry.graph->Replay();
}

// Makes room for one more graph.
void GraphCache::DropOldest() {
  std::vector<Entry*> used;
  for (auto& [shape, entry] : entries_) {
    if (entry.graph != nullptr) used.push_back(&entry);
  }
  if (used.size() < max_graphs_) return;
  const auto older = [](const Entry* a, const Entry* b) { return a->last_use < b->last_use; };
  (*std::min_element(used.begin(), used.end(), older))->graph.reset();
}

void GraphCache::Forget() { entries_.clear(); }

}  // namespace evolora
