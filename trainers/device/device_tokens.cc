#include "device/device_tokens.h"

#include <algorithm>

#include "ATen/ops/empty.h"

namespace evolora {
namespace {

// Collects arrays for one transfer.
class Packer {
 public:
  template <typename Values, typename Get>
  void Add(const Values& values, const Get& get) {
    begins_.push_back(static_cast<int64_t>(all_.size()));
    for (const auto& value : values) all_.push_back(static_cast<int32_t>(get(value)));
  }
  // One more value of the array before.
  void Last(int64_t value) { all_.push_back(static_cast<int32_t>(value)); }

  // The arrays in the order of Add.
  std::vector<at::Tensor> Move(const DeviceMath& math) {
    begins_.push_back(static_cast<int64_t>(all_.size()));
    // From pinned memory the copy runs beside the host.
    at::Tensor host =
        at::empty({begins_.back()}, at::dtype(at::kInt).pinned_memory(math.device().is_cuda()));
    std::copy(all_.begin(), all_.end(), host.mutable_data_ptr<int32_t>());
    const at::Tensor moved = host.to(math.device(), /*non_blocking=*/true);
    std::vector<at::Tensor> arrays;
    for (size_t i = 0; i + 1 < begins_.size(); ++i) {
      arrays.push_back(moved.narrow(0, begins_[i], begins_[i + 1] - begins_[i]));
    }
    return arrays;
  }

 private:
  std::vector<int32_t> all_;
  std::vector<int64_t> begins_;
};

}  // namespace

DeviceTokens MoveTokens(const TokenLayout& layout, const DeviceMath& math) {
  using Segment = TokenLayout::Segment;
  using Target = TokenLayout::Target;
  const auto same = [](int64_t value) { return value; };
  Packer packer;
  packer.Add(layout.ids, same);
  packer.Add(layout.positions, same);
  packer.Add(layout.segments, [](const Segment& segment) { return segment.first_token; });
  packer.Last(static_cast<int64_t>(layout.ids.size()));
  packer.Add(layout.predicting, same);
  std::vector<int64_t> first_target(layout.predicting.size(), 0);
  for (size_t t = layout.targets.size(); t-- > 0;) {
    first_target[static_cast<size_t>(layout.targets[t].row)] = static_cast<int64_t>(t);
  }
  packer.Add(first_target, same);
  packer.Last(static_cast<int64_t>(layout.targets.size()));
  packer.Add(layout.targets, [](const Target& target) { return target.id; });
  packer.Add(layout.targets, [](const Target& target) { return target.count; });

  const std::vector<at::Tensor> arrays = packer.Move(math);
  DeviceTokens tokens{.ids = arrays[0],
                      .positions = arrays[1],
                      .row_begin = arrays[2],
                      .predicting = arrays[3].to(at::kLong),
                      .first_target = arrays[4],
                      .target_ids = arrays[5],
                      .target_counts = arrays[6]};
  for (const Segment& segment : layout.segments) {
    tokens.row_lengths.push_back(segment.num_tokens);
    tokens.longest_row = std::max(tokens.longest_row, segment.num_tokens);
  }
  return tokens;
}

}  // namespace evolora
