#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/model/kernels.h"

namespace evolora {
namespace {

// How many of the likeliest tokens are ranked at first, and how much the number grows when they are
// not enough. A draw mostly ends within the first few; ranking a whole vocabulary takes longer than
// a small model's step.
constexpr int64_t kFirstRanked = 64;
constexpr int64_t kGrowth = 16;

// The first `keep` ids by falling logit, equal logits by rising id.
std::vector<TokenId> Ranked(const float* logits, int64_t n, int64_t keep) {
  const auto before = [&](TokenId a, TokenId b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  std::vector<TokenId> ids(static_cast<size_t>(keep));  // a heap, the last of the kept in front
  std::iota(ids.begin(), ids.end(), 0);
  std::make_heap(ids.begin(), ids.end(), before);
  for (auto id = static_cast<TokenId>(keep); id < n; ++id) {
    if (!before(id, ids.front())) continue;
    std::pop_heap(ids.begin(), ids.end(), before);
    ids.back() = id;
    std::push_heap(ids.begin(), ids.end(), before);
  }
  std::sort_heap(ids.begin(), ids.end(), before);
  return ids;
}

// The likeliest tokens with their masses, relative to the likeliest one's.
struct Head {
  std::vector<TokenId> ids;
  std::vector<double> masses;
  bool whole = false;  // every token that may be drawn
};

// The distribution that one draw is made from.
class Distribution {
 public:
  Distribution(const float* logits, int64_t n, const Sampling& sampling)
      : logits_(logits),
        n_(n),
        limit_(sampling.top_k > 0 ? std::min<int64_t>(sampling.top_k, n) : n),
        largest_(Kernels().max(logits, n)),
        temperature_(sampling.temperature) {}

  // Of all tokens that may be drawn.
  double TotalMass() {
    double total = 0;
    if (limit_ < n_) {
      Rank(limit_);
      for (const double mass : head_.masses) total += mass;
    } else {
      for (int64_t i = 0; i < n_; ++i) total += MassOf(static_cast<TokenId>(i));
    }
    return total;
  }

  // The first tokens, as many as have `mass` together or all there are, and their mass.
  std::pair<size_t, double> FirstWith(double mass) {
    if (head_.ids.empty()) Rank(std::min(limit_, kFirstRanked));
    for (;;) {
      size_t count = 0;
      double seen = 0;
      while (count < head_.ids.size() && seen < mass) seen += head_.masses[count++];
      if (seen >= mass || head_.whole) return {count, seen};
      Rank(std::min(limit_, kGrowth * static_cast<int64_t>(head_.ids.size())));
    }
  }

  TokenId At(size_t place) const { return head_.ids[place]; }

 private:
  double MassOf(TokenId id) const {
    return std::exp((static_cast<double>(logits_[id]) - largest_) / temperature_);
  }

  void Rank(int64_t keep) {
    head_ = {.ids = Ranked(logits_, n_, keep), .whole = keep == limit_};
    for (const TokenId id : head_.ids) head_.masses.push_back(MassOf(id));
  }

  const float* logits_;
  int64_t n_;
  int64_t limit_;
  double largest_;
  double temperature_;
  Head head_;
};

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
    return static_cast<TokenId>(std::find(logits, logits + n, Kernels().max(logits, n)) - logits);
  }
  Distribution tokens(logits, n, sampling);
  double mass = tokens.TotalMass();
  if (sampling.top_p < 1) mass = tokens.FirstWith(sampling.top_p * mass).second;
  // The token at which the sum of the masses passes u * mass; u < 1.
  const double target = random.NextDouble() * mass;
  const size_t count = tokens.FirstWith(std::nextafter(target, mass)).first;
  return tokens.At(std::max<size_t>(count, 1) - 1);
}

}  // namespace evolora
