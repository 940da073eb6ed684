#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "evolora/adapters/peft_config.h"
#include "evolora/core/status_macros.h"
#include "re2/re2.h"

namespace evolora {
namespace {

constexpr size_t kMaxPatternBytes = 1024;
constexpr size_t kMaxPatterns = 4096;
constexpr char kAllLinear[] = "all-linear";

using Regex = std::unique_ptr<RE2>;

re2::StringPiece Piece(absl::string_view text) {
  return re2::StringPiece(text.data(), text.size());
}

absl::StatusOr<Regex> Compile(absl::string_view key, absl::string_view shown,
                              const std::string& pattern) {
  if (shown.size() > kMaxPatternBytes) {
    return absl::UnimplementedError(absl::StrCat("adapter_config.json: ", key, ": a pattern of ",
                                                 shown.size(), " bytes, limit ", kMaxPatternBytes));
  }
  RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(1 << 20);
  auto regex = std::make_unique<RE2>(pattern, options);
  if (!regex->ok()) {
    return absl::UnimplementedError(
        absl::StrCat("adapter_config.json: ", key, ": pattern '", shown, "': ", regex->error()));
  }
  return regex;
}

// Python's re.match: from the start, to wherever the pattern ends.
bool MatchesFromStart(const RE2& regex, absl::string_view path) {
  return regex.Match(Piece(path), 0, path.size(), RE2::ANCHOR_START, nullptr, 0);
}

bool NameMatches(absl::string_view name, absl::string_view path) {
  return path == name ||
         (absl::EndsWith(path, name) && absl::EndsWith(absl::StripSuffix(path, name), "."));
}

bool AnyNameMatches(const std::vector<std::string>& names, absl::string_view path) {
  for (const std::string& name : names) {
    if (NameMatches(name, path)) return true;
  }
  return false;
}

// The number that group "idx" of the first matching pattern captures, or -1.
int64_t LayerIndex(const std::vector<Regex>& patterns, absl::string_view path) {
  for (const Regex& regex : patterns) {
    std::vector<re2::StringPiece> groups(1 + regex->NumberOfCapturingGroups());
    if (!regex->Match(Piece(path), 0, path.size(), RE2::ANCHOR_START, groups.data(),
                      static_cast<int>(groups.size()))) {
      continue;
    }
    const re2::StringPiece index = groups[regex->NamedCapturingGroups().at("idx")];
    int64_t value = -1;
    if (!absl::SimpleAtoi(absl::string_view(index.data(), index.size()), &value)) return -1;
    return value;
  }
  return -1;
}

}  // namespace

struct PeftMatcher::Compiled {
  PeftConfig config;
  Regex target;               // when target_modules is a pattern other than "all-linear"
  Regex exclude;              // when exclude_modules is a pattern
  std::vector<Regex> ranks;   // one for each key of rank_pattern
  std::vector<Regex> alphas;  // one for each key of alpha_pattern
  std::vector<Regex> layers;  // filled when layers_to_transform is
};

namespace {

// The regexes of a pattern map, each `(.*\.)?(key)$`.
template <typename T>
absl::StatusOr<std::vector<Regex>> CompileKeys(
    absl::string_view name, const std::vector<std::pair<std::string, T>>& patterns) {
  if (patterns.size() > kMaxPatterns) {
    return absl::UnimplementedError(absl::StrCat("adapter_config.json: ", name, ": ",
                                                 patterns.size(), " keys, limit ", kMaxPatterns));
  }
  std::vector<Regex> result;
  for (const auto& [key, value] : patterns) {
    ASSIGN_OR_RETURN(Regex regex, Compile(name, key, absl::StrCat("(.*\\.)?(", key, ")$")));
    result.push_back(std::move(regex));
  }
  return result;
}

absl::StatusOr<std::vector<Regex>> CompileLayers(const PeftConfig& config) {
  std::vector<Regex> result;
  if (config.layers_to_transform.empty()) return result;
  std::vector<std::string> patterns;
  for (const std::string& pattern : config.layers_pattern) {
    patterns.push_back(absl::StrCat("(?:^|.*?\\.)", pattern, "\\.(?P<idx>\\d+)\\."));
  }
  if (patterns.empty()) patterns = {".*?\\.[^.]*\\.(?P<idx>\\d+)\\."};
  if (patterns.size() > kMaxPatterns) {
    return absl::UnimplementedError(
        absl::StrCat("adapter_config.json: layers_pattern: ", patterns.size(), " entries, limit ",
                     kMaxPatterns));
  }
  for (const std::string& pattern : patterns) {
    ASSIGN_OR_RETURN(Regex regex, Compile("layers_pattern", pattern, pattern));
    result.push_back(std::move(regex));
  }
  return result;
}

// The value of the first key that matches, else `fallback`.
template <typename T>
T FirstMatch(const std::vector<Regex>& regexes,
             const std::vector<std::pair<std::string, T>>& patterns, absl::string_view path,
             T fallback) {
  for (size_t i = 0; i < regexes.size(); ++i) {
    if (MatchesFromStart(*regexes[i], path)) return patterns[i].second;
  }
  return fallback;
}

}  // namespace

PeftMatcher::PeftMatcher(std::unique_ptr<Compiled> compiled) : compiled_(std::move(compiled)) {}
PeftMatcher::PeftMatcher(PeftMatcher&&) noexcept = default;
PeftMatcher& PeftMatcher::operator=(PeftMatcher&&) noexcept = default;
PeftMatcher::~PeftMatcher() = default;

absl::StatusOr<PeftMatcher> PeftMatcher::Create(const PeftConfig& config) {
  auto compiled = std::make_unique<Compiled>();
  compiled->config = config;
  const auto* target = std::get_if<std::string>(&config.target_modules);
  if (target != nullptr && *target != kAllLinear) {
    ASSIGN_OR_RETURN(compiled->target, Compile("target_modules", *target, *target));
  }
  if (const auto* exclude = std::get_if<std::string>(&config.exclude_modules)) {
    ASSIGN_OR_RETURN(compiled->exclude, Compile("exclude_modules", *exclude, *exclude));
  }
  ASSIGN_OR_RETURN(compiled->ranks, CompileKeys("rank_pattern", config.rank_pattern));
  ASSIGN_OR_RETURN(compiled->alphas, CompileKeys("alpha_pattern", config.alpha_pattern));
  ASSIGN_OR_RETURN(compiled->layers, CompileLayers(config));
  return PeftMatcher(std::move(compiled));
}

bool PeftMatcher::IsSaved(absl::string_view path) const {
  for (const std::string& end : compiled_->config.modules_to_save) {
    if (absl::EndsWith(path, end)) return true;
  }
  return false;
}

bool PeftMatcher::IsTarget(absl::string_view path) const {
  const PeftConfig& config = compiled_->config;
  if (AnyNameMatches(config.modules_to_save, path)) return false;
  if (compiled_->exclude != nullptr) {
    if (RE2::FullMatch(Piece(path), *compiled_->exclude)) return false;
  } else if (AnyNameMatches(std::get<0>(config.exclude_modules), path)) {
    return false;
  }
  if (compiled_->target != nullptr) return RE2::FullMatch(Piece(path), *compiled_->target);
  const auto* names = std::get_if<std::vector<std::string>>(&config.target_modules);
  if (names == nullptr) return !NameMatches("lm_head", path);  // all-linear
  for (const std::string& name : *names) {
    if (path == name) return true;  // a full path is not subject to layers_to_transform
  }
  if (!AnyNameMatches(*names, path)) return false;
  if (config.layers_to_transform.empty()) return true;
  const int64_t layer = LayerIndex(compiled_->layers, path);
  for (int64_t wanted : config.layers_to_transform) {
    if (layer == wanted) return true;
  }
  return false;
}

bool PeftMatcher::EntryMatches(size_t i, absl::string_view path) const {
  return NameMatches(std::get<0>(compiled_->config.target_modules)[i], path);
}

int64_t PeftMatcher::Rank(absl::string_view path) const {
  const PeftConfig& config = compiled_->config;
  return FirstMatch(compiled_->ranks, config.rank_pattern, path, config.rank);
}

double PeftMatcher::Scale(absl::string_view path) const {
  const PeftConfig& config = compiled_->config;
  const double alpha = FirstMatch(compiled_->alphas, config.alpha_pattern, path, config.alpha);
  const double rank = static_cast<double>(Rank(path));
  return alpha / (config.use_rslora ? std::sqrt(rank) : rank);
}

}  // namespace evolora
