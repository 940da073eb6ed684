#include "prompt_lookup.h"

#include <algorithm>

namespace evolora {

std::vector<TokenId> GuessNext(const std::vector<TokenId>& context, int64_t limit) {
  if (limit <= 0) return {};
  for (const int64_t length : {3, 2}) {
    if (static_cast<int64_t>(context.size()) <= length) continue;
    const auto tail = context.end() - length;
    const auto at = std::find_end(context.begin(), context.end() - 1, tail, context.end());
    if (at == context.end() - 1) continue;
    const auto next = at + length;
    return {next, next + std::min<int64_t>(limit, context.end() - next)};
  }
  return {};
}

}  // namespace evolora
