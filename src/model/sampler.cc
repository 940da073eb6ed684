#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"

namespace evolora {
namespace {

// Ids by falling logit, equal logits by rising id; only the first `keep` are in order.
std::vector<TokenId> Ranked(const float* logits, int64_t n, int64_t keep) {
  std::vector<TokenId> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + keep, ids.end(), [&](TokenId a, TokenId b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  ids.resize(static_cast<size_t>(keep));
  return ids;
}

}  // namespace

absl::Status CheckSampling(const Sampling& s) {
  if (!std::isfinite(s.temperature) || s.temperature < 0) {
    return absl::InvalidArgumentError(absl::StrCat("temperature = ", s.temperature));
  }
  if (!(s.top_p > 0 && s.top_p <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p = ", s.top_p, " is not in (0, 1]"));
  }
  if (s.top_k < 0) return absl::InvalidArgumentError(absl::StrCat("top_k = ", s.top_k));
  return absl::OkStatus();
}

TokenId SampleToken(const float* logits, int64_t n, const Sampling& sampling, Random& random) {
  if (sampling.temperature == 0) {
    return static_cast<TokenId>(std::max_element(logits, logits + n) - logits);
  }
  const int64_t keep = sampling.top_k > 0 ? std::min<int64_t>(sampling.top_k, n) : n;
  const std::vector<TokenId> ids = Ranked(logits, n, keep);
  std::vector<double> mass(ids.size());
  double total = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const double gap = static_cast<double>(logits[ids[i]]) - logits[ids[0]];
    total += mass[i] = std::exp(gap / sampling.temperature);
  }
  size_t count = 0;
  double kept = 0;
  while (count < ids.size() && kept < sampling.top_p * total) kept += mass[count++];
  const double target = random.NextDouble() * kept;
  double seen = 0;
  for (size_t i = 0; i < count; ++i) {
    seen += mass[i];
    if (target < seen) return ids[i];
  }
  return ids[count - 1];
}

}  // namespace evolora
