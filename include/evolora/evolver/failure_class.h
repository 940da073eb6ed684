#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace evolora {

// What a failure turned out to be: one value per row of the decision table (evolver/POLICY.md).
enum class FailureClass {
  kUndetermined,       // the probes ran out before the signature was clear
  kNotReproducible,    // the replay passes
  kVerifierWrong,      // the verifier refuses the right answer
  kPlumbing,           // the tool runtime refuses the right answer
  kMissingKnowledge,   // a fact: the forced entry fixes it
  kTriggerMiss,        // the forced patch fixes it, the retrieved one does not
  kMissingProcedure,   // a rule: the forced skill fixes original and siblings
  kOverSpecificPatch,  // the forced patch fixes the original only
  kAdherence,          // the oracle hint fixes it, the patch does not
  kUnreliable,         // no help fixes it, but some unaided samples pass
  kAbsentCapability,   // no help fixes it and no sample passes
  kAmbiguous,          // contradicts a passing case
};

// What a change touches.
enum class Lever { kNone, kText, kWeights };

const char* FailureClassName(FailureClass failure_class);  // e.g. "missing_knowledge"
const char* LeverName(Lever lever);                        // "none", "text", "weights"
// InvalidArgument names the unknown word.
absl::StatusOr<FailureClass> ParseFailureClass(absl::string_view name);

// The lever of the first action of the class's table row.
Lever LeverOf(FailureClass failure_class);

// Whether later failures of a cluster may take this class over without the whole probe plan.
// Classes that the gold check or the single failure settles are never taken over.
bool IsInheritable(FailureClass failure_class);

}  // namespace evolora
