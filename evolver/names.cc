// The words of the enums that the log, the report and the command line show.
#include <array>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "evolora/core/check.h"
#include "evolora/evolver/decide.h"
#include "evolora/evolver/diagnose.h"
#include "evolora/evolver/ledger.h"
#include "evolora/evolver/policy.h"
#include "evolora/evolver/train_when.h"

namespace evolora {
namespace {

constexpr std::array<const char*, 5> kRouters = {"rules", "always-patch", "always-lora",
                                                 "fixed-schedule", "random"};

template <typename Enum, size_t kSize>
const char* NameOf(Enum value, const std::array<const char*, kSize>& names) {
  const auto index = static_cast<size_t>(value);
  EVOLORA_CHECK(index < kSize, "enum value without a name");
  return names[index];
}

}  // namespace

const char* PatchKindName(PatchKind kind) {
  static constexpr std::array<const char*, 5> kNames = {"none", "knowledge", "skill", "prompt",
                                                        "tool"};
  return NameOf(kind, kNames);
}

const char* TicketStateName(TicketState state) {
  static constexpr std::array<const char*, 11> kNames = {
      "open",  "reproduced", "patched", "waiting",  "queued",   "training",
      "gated", "promoted",   "watched", "reverted", "abstained"};
  return NameOf(state, kNames);
}

const char* ExampleSourceName(ExampleSource source) {
  static constexpr std::array<const char*, 3> kNames = {"teacher_answer", "own_sample",
                                                        "hinted_sample"};
  return NameOf(source, kNames);
}

const char* GateResultName(GateResult result) {
  static constexpr std::array<const char*, 3> kNames = {"accept", "reject", "inconclusive"};
  return NameOf(result, kNames);
}

const char* ActionName(Action action) {
  static constexpr std::array<const char*, 11> kNames = {
      "abstain",       "patch_knowledge", "patch_skill",     "patch_tool",
      "patch_prompt",  "patch_trigger",   "validation_case", "feed_lora",
      "schedule_lora", "consolidate",     "revert"};
  return NameOf(action, kNames);
}

const char* DataSourceName(DataSource source) {
  static constexpr std::array<const char*, 3> kNames = {"teacher_answers", "own_verified_samples",
                                                        "hinted_self_samples"};
  return NameOf(source, kNames);
}

const char* RouterName(RouterKind router) { return NameOf(router, kRouters); }

absl::StatusOr<RouterKind> ParseRouter(absl::string_view name) {
  for (size_t i = 0; i < kRouters.size(); ++i) {
    if (name == kRouters[i]) return static_cast<RouterKind>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown router \"", name, "\"; known: ", absl::StrJoin(kRouters, ", ")));
}

}  // namespace evolora
