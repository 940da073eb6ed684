#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/adapters/gate.h"
#include "evolora/core/random.h"

namespace evolora::testing {

// `wins` + `losses` + `ties` pairs in an order drawn from `seed`; ids "<prefix>0", "<prefix>1", ...
inline std::vector<PairedOutcome> Pairs(const std::string& prefix, int64_t wins, int64_t losses,
                                        int64_t ties, uint64_t seed = 1, bool identical = false) {
  std::vector<PairedOutcome> sorted;
  for (int64_t i = 0; i < wins + losses + ties; ++i) {
    PairedOutcome pair{.cluster = "c"};
    pair.champion_right = i >= wins;  // ties are right on both sides
    pair.candidate_right = i < wins || i >= wins + losses;
    pair.identical_request = identical && i >= wins + losses;
    sorted.push_back(pair);
  }
  std::vector<PairedOutcome> out;
  for (const int64_t i : Random(seed).Permutation(static_cast<int64_t>(sorted.size()))) {
    out.push_back(sorted[i]);
    out.back().case_id = absl::StrCat(prefix, i);
  }
  return out;
}

}  // namespace evolora::testing
