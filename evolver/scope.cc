#include "scope.h"

#include <algorithm>

namespace evolora {
namespace {

constexpr int64_t kOutsidePerMatch = 20;  // one outside match per so many outside texts: 5 %

}  // namespace

absl::StatusOr<DerivedScope> DeriveScope(absl::Span<const std::string> inside,
                                         absl::Span<const std::string> outside, int max_terms) {
  absl::StatusOr<Trigger> strict = DeriveTrigger(inside, outside, max_terms);
  if (!strict.ok() && !absl::IsNotFound(strict.status())) return strict.status();
  if (strict.ok() && !strict->all_of.empty()) return DerivedScope{*std::move(strict), 0};
  const absl::StatusOr<Trigger> shared = DeriveTrigger(inside, {}, max_terms);
  if (shared.ok() && !shared->all_of.empty()) {
    const int64_t matches =
        std::count_if(outside.begin(), outside.end(),
                      [&](const std::string& text) { return Matches(*shared, text); });
    if (matches * kOutsidePerMatch <= static_cast<int64_t>(outside.size())) {
      return DerivedScope{*shared, matches};
    }
  }
  if (!strict.ok()) return strict.status();
  return DerivedScope{*std::move(strict), 0};
}

}  // namespace evolora
