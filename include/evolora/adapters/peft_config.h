#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace evolora {

// adapter_config.json of a PEFT LoRA folder, reduced to what changes the function of the adapter.
// Patterns keep the order of the file: PEFT uses the first key that matches.
struct PeftConfig {
  std::string base_model_name_or_path;
  std::string revision;
  int64_t rank = 0;
  double alpha = 0;
  bool use_rslora = false;
  bool use_dora = false;  // each module has a magnitude vector
  std::vector<std::pair<std::string, int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  // Names of modules (equal, or equal after a "."), or one regex over the whole path;
  // "all-linear" matches every path.
  std::variant<std::vector<std::string>, std::string> target_modules;
  std::variant<std::vector<std::string>, std::string> exclude_modules;
  // A module whose path ends with one of these (as texts: "norm" means input_layernorm, too) is
  // saved as a whole and not adapted.
  std::vector<std::string> modules_to_save;
  std::vector<int64_t> layers_to_transform;  // empty = all
  std::vector<std::string> layers_pattern;   // empty = any
};

// Parses untrusted text. Every known key that would change the function in a way that evolora does
// not compute is refused by name when it is on: biases, layer_replication,
// initialisations that rewrite the base (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA), ... A key that PEFT
// 0.21 does not have gives a line in `warnings` (may be null) when its value is null, false, empty,
// a number or a text, and Unimplemented when it is true or a filled list or object.
// Errors: InvalidArgument (not JSON, wrong type, r < 1, alpha not finite, peft_type not LORA, a
//         required key is missing: peft_type, r, lora_alpha, target_modules), Unimplemented.
absl::StatusOr<PeftConfig> ParsePeftConfig(absl::string_view text,
                                           std::vector<std::string>* warnings = nullptr);

// The config's answers for module paths. Regexes are RE2 with bounded memory, so no pattern can
// hang; a pattern that RE2 does not have (look-ahead, back-reference) is refused at Create.
class PeftMatcher {
 public:
  // Unimplemented names the config key and the pattern.
  static absl::StatusOr<PeftMatcher> Create(const PeftConfig& config);
  PeftMatcher(PeftMatcher&&) noexcept;
  PeftMatcher& operator=(PeftMatcher&&) noexcept;
  ~PeftMatcher();

  // Whether PEFT replaces this module as a whole.
  bool IsSaved(absl::string_view path) const;
  // Whether PEFT puts an adapter on this module.
  bool IsTarget(absl::string_view path) const;
  // Whether the list entry target_modules[i] names this path. REQUIRES: target_modules is a list.
  bool EntryMatches(size_t i, absl::string_view path) const;
  // r of the module: the first rank_pattern key k where `(.*\.)?(k)$` matches from the start.
  int64_t Rank(absl::string_view path) const;
  // alpha of the module over r, or over sqrt(r) with use_rslora.
  double Scale(absl::string_view path) const;

 private:
  struct Compiled;
  explicit PeftMatcher(std::unique_ptr<Compiled> compiled);
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace evolora
