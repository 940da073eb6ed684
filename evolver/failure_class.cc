#include "evolora/evolver/failure_class.h"

#include <array>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"

namespace evolora {
namespace {

struct ClassRow {
  FailureClass failure_class;
  const char* name;
  Lever lever;
  bool inheritable;
};

constexpr std::array<ClassRow, 12> kRows = {{
    {FailureClass::kUndetermined, "undetermined", Lever::kNone, false},
    {FailureClass::kNotReproducible, "not_reproducible", Lever::kNone, false},
    {FailureClass::kVerifierWrong, "verifier_wrong", Lever::kNone, false},
    {FailureClass::kPlumbing, "plumbing", Lever::kText, false},
    {FailureClass::kMissingKnowledge, "missing_knowledge", Lever::kText, true},
    {FailureClass::kTriggerMiss, "trigger_miss", Lever::kText, false},
    {FailureClass::kMissingProcedure, "missing_procedure", Lever::kText, true},
    {FailureClass::kOverSpecificPatch, "over_specific_patch", Lever::kText, false},
    {FailureClass::kAdherence, "adherence", Lever::kWeights, true},
    {FailureClass::kUnreliable, "unreliable", Lever::kWeights, true},
    {FailureClass::kAbsentCapability, "absent_capability", Lever::kWeights, true},
    {FailureClass::kAmbiguous, "ambiguous", Lever::kNone, false},
}};

const ClassRow& RowOf(FailureClass failure_class) {
  for (const ClassRow& row : kRows) {
    if (row.failure_class == failure_class) return row;
  }
  EVOLORA_CHECK(false, "failure class without a row");
}

}  // namespace

const char* FailureClassName(FailureClass failure_class) { return RowOf(failure_class).name; }

const char* LeverName(Lever lever) {
  switch (lever) {
    case Lever::kNone:
      return "none";
    case Lever::kText:
      return "text";
    case Lever::kWeights:
      return "weights";
  }
  EVOLORA_CHECK(false, "unknown lever");
}

absl::StatusOr<FailureClass> ParseFailureClass(absl::string_view name) {
  for (const ClassRow& row : kRows) {
    if (name == row.name) return row.failure_class;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown failure class \"", name, "\""));
}

Lever LeverOf(FailureClass failure_class) { return RowOf(failure_class).lever; }

bool IsInheritable(FailureClass failure_class) { return RowOf(failure_class).inheritable; }

}  // namespace evolora
