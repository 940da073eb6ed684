#include "bpe_model.h"

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "byte_letters.h"
#include "evolora/core/status_macros.h"
#include "utf8.h"

namespace evolora {
namespace {

// Words up to this many symbols look for the best pair by scanning, longer ones keep a heap.
constexpr size_t kShortWord = 40;

uint64_t PairKey(TokenId left, TokenId right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Create(const TokenizerSpec& spec) {
  BpeModel model;
  model.kind_ = spec.kind;
  model.unk_id_ = spec.unk_id;
  model.fuse_unk_ = spec.fuse_unk;
  model.byte_fallback_ = spec.byte_fallback && spec.kind == TokenizerKind::kCharacterBpe;
  model.ignore_merges_ = spec.ignore_merges;
  RETURN_IF_ERROR(model.AddTokens(spec));
  RETURN_IF_ERROR(model.AddMerges(spec));
  RETURN_IF_ERROR(model.AddByteTokens());
  return model;
}

absl::Status BpeModel::AddTokens(const TokenizerSpec& spec) {
  absl::flat_hash_set<TokenId> special;
  for (const AddedToken& token : spec.added_tokens) {
    if (token.is_special) special.insert(token.id);
  }
  ids_.reserve(spec.tokens.size());
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const TokenId id = static_cast<TokenId>(i);
    if (spec.tokens[i].empty() || special.contains(id)) continue;
    const auto [it, inserted] = ids_.emplace(spec.tokens[i], id);
    if (!inserted) {
      return absl::InvalidArgumentError(absl::StrCat("tokens ", it->second, " and ", id,
                                                     " have the same text '", spec.tokens[i], "'"));
    }
  }
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerges(const TokenizerSpec& spec) {
  merges_.reserve(spec.merges.size());
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    const std::string joined = absl::StrCat(left, right);
    TokenId ids[3];
    for (int i = 0; i < 3; ++i) {
      const std::string& text = i == 0 ? left : i == 1 ? right : joined;
      const auto it = ids_.find(text);
      if (it == ids_.end()) {
        return absl::InvalidArgumentError(absl::StrCat("merge ", rank, " ('", left, "' '", right,
                                                       "'): '", text, "' is not a token"));
      }
      ids[i] = it->second;
    }
    const Merge merge{static_cast<int32_t>(rank), ids[2]};
    if (!merges_.emplace(PairKey(ids[0], ids[1]), merge).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("merge ", rank, " ('", left, "' '", right, "') stands twice"));
    }
  }
  return absl::OkStatus();
}

absl::Status BpeModel::AddByteTokens() {
  byte_ids_.fill(-1);
  if (kind_ == TokenizerKind::kCharacterBpe && !byte_fallback_) return absl::OkStatus();
  for (int b = 0; b < 256; ++b) {
    const bool letters = kind_ == TokenizerKind::kByteLevelBpe;
    const std::string text = letters ? LetterOfByte(static_cast<unsigned char>(b))
                                     : TokenOfByte(static_cast<unsigned char>(b));
    const auto it = ids_.find(text);
    if (it != ids_.end()) {
      byte_ids_[static_cast<size_t>(b)] = it->second;
    } else if (!letters) {
      return absl::InvalidArgumentError(
          absl::StrCat("byte fallback is on, but there is no token ", text));
    }
  }
  return absl::OkStatus();
}

const BpeModel::Merge* BpeModel::Find(TokenId left, TokenId right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeModel::Encode(absl::string_view word, std::vector<Symbol>& out) const {
  if (ignore_merges_) {
    const auto it =
        kind_ == TokenizerKind::kByteLevelBpe ? ids_.find(BytesToLetters(word)) : ids_.find(word);
    if (it != ids_.end()) {
      out.push_back({it->second, static_cast<uint32_t>(word.size())});
      return;
    }
  }
  const size_t first = out.size();
  if (kind_ == TokenizerKind::kByteLevelBpe) {
    SplitBytes(word, out);
  } else {
    SplitCharacters(word, out);
  }
  if (out.size() - first <= kShortWord) {
    MergeShort(out, first);
  } else {
    MergeLong(out, first);
  }
}

void BpeModel::SplitBytes(absl::string_view word, std::vector<Symbol>& out) const {
  const size_t first = out.size();
  bool last_is_unk = false;
  for (size_t i = 0; i < word.size(); ++i) {
    const TokenId id = byte_ids_[static_cast<uint8_t>(word[i])];
    const uint32_t end = static_cast<uint32_t>(i + 1);
    if (id < 0 && unk_id_ >= 0 && fuse_unk_ && last_is_unk && out.size() > first) {
      out.back().end = end;
    } else if (id >= 0 || unk_id_ >= 0) {
      out.push_back({id >= 0 ? id : unk_id_, end});
    }
    last_is_unk = id < 0;
  }
}

void BpeModel::SplitCharacters(absl::string_view word, std::vector<Symbol>& out) const {
  bool last_is_unk = false;
  size_t end = 0;
  while (end < word.size()) {
    const size_t begin = end;
    end += DecodeUtf8(word.substr(begin)).num_bytes;
    const auto it = ids_.find(word.substr(begin, end - begin));
    const bool is_known = it != ids_.end();
    if (is_known) {
      out.push_back({it->second, static_cast<uint32_t>(end)});
    } else if (byte_fallback_) {
      for (size_t i = begin; i < end; ++i) {
        out.push_back({byte_ids_[static_cast<uint8_t>(word[i])], static_cast<uint32_t>(i + 1)});
      }
    } else if (unk_id_ >= 0 && fuse_unk_ && last_is_unk) {
      out.back().end = static_cast<uint32_t>(end);
    } else if (unk_id_ >= 0) {
      out.push_back({unk_id_, static_cast<uint32_t>(end)});
    }
    last_is_unk = !is_known && !byte_fallback_;
  }
}

void BpeModel::MergeShort(std::vector<Symbol>& symbols, size_t first) const {
  size_t n = symbols.size() - first;
  if (n < 2) return;
  Symbol* s = symbols.data() + first;
  Merge pair[kShortWord];  // pair[i]: of s[i] and s[i + 1]
  const auto look_up = [&](size_t i) {
    const Merge* merge = Find(s[i].id, s[i + 1].id);
    pair[i] = merge != nullptr ? *merge : Merge{kNoMerge, -1};
  };
  for (size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (pair[i].rank < pair[best].rank) best = i;
    }
    if (pair[best].rank == kNoMerge) break;
    s[best] = {pair[best].id, s[best + 1].end};
    std::copy(s + best + 2, s + n, s + best + 1);
    std::copy(pair + best + 1, pair + n - 1, pair + best);
    --n;
    if (best > 0) look_up(best - 1);
    if (best + 1 < n) look_up(best);
  }
  symbols.resize(first + n);
}

// A linked list of symbols and a heap of candidate pairs. A pair that has changed since it was
// pushed joins to another text, so its merge gives another id: that is how it is known to be stale.
void BpeModel::MergeLong(std::vector<Symbol>& symbols, size_t first) const {
  struct Link {
    int64_t prev, next;
    bool is_gone;
  };
  struct Candidate {
    int32_t rank;
    int64_t at;
    TokenId id;
    bool operator>(const Candidate& o) const { return std::tie(rank, at) > std::tie(o.rank, o.at); }
  };
  const int64_t n = static_cast<int64_t>(symbols.size() - first);
  Symbol* s = symbols.data() + first;
  std::vector<Link> links(static_cast<size_t>(n));
  std::vector<Candidate> heap;
  const auto push = [&](int64_t at) {
    if (at < 0 || links[static_cast<size_t>(at)].next >= n) return;
    const Merge* merge = Find(s[at].id, s[links[static_cast<size_t>(at)].next].id);
    if (merge == nullptr) return;
    heap.push_back({merge->rank, at, merge->id});
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (int64_t i = 0; i < n; ++i) links[static_cast<size_t>(i)] = {i - 1, i + 1, false};
  for (int64_t i = 0; i < n; ++i) push(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const Candidate top = heap.back();
    heap.pop_back();
    Link& link = links[static_cast<size_t>(top.at)];
    if (link.is_gone || link.next >= n) continue;
    const Merge* merge = Find(s[top.at].id, s[link.next].id);
    if (merge == nullptr || merge->id != top.id) continue;
    Link& right = links[static_cast<size_t>(link.next)];
    s[top.at] = {top.id, s[link.next].end};
    right.is_gone = true;
    link.next = right.next;
    if (link.next < n) links[static_cast<size_t>(link.next)].prev = top.at;
    push(link.prev);
    push(top.at);
  }
  size_t kept = first;
  for (int64_t i = 0; i < n; ++i) {
    if (!links[static_cast<size_t>(i)].is_gone) symbols[kept++] = s[i];
  }
  symbols.resize(kept);
}

}  // namespace evolora
