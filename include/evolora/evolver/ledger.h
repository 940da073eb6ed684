#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/case.h"
#include "evolora/core/json.h"
#include "evolora/evolver/diagnose.h"

// The ledger: one ticket per failure cluster, as a fold over append-only events. The caller stores
// the events; ReplayEvents over the stored events gives the same ledger again.
namespace evolora {

enum class TicketState {
  kOpen,        // a failure was seen
  kReproduced,  // probes confirm it
  kPatched,     // a text patch passed the gate
  kWaiting,     // collects verified examples for weights
  kQueued,      // may be trained
  kTraining,
  kGated,      // an adapter exists and is being judged
  kPromoted,   // the adapter passed and serves
  kWatched,    // the change is live and its field results are followed
  kReverted,   // the change was taken back
  kAbstained,  // recorded decision to do nothing
};
const char* TicketStateName(TicketState state);

// The transitions that exist, whatever the evidence. ApplyEvent asks for evidence on top.
//   open       -> reproduced abstained
//   reproduced -> patched waiting abstained
//   patched    -> waiting watched reverted abstained
//   waiting    -> patched queued abstained
//   queued     -> training waiting abstained
//   training   -> gated queued abstained      (queued: crashed, to be tried again)
//   gated      -> promoted waiting abstained  (waiting: the gate did not accept)
//   promoted   -> watched reverted
//   watched    -> waiting patched reverted
//   reverted   -> reproduced waiting abstained
//   abstained  -> reproduced waiting          (new evidence reopens)
bool CanTransition(TicketState from, TicketState to);

struct Transition {
  TicketState to = TicketState::kOpen;
  std::string why;
};
// One diagnosed failure.
struct ProbeRecord {
  std::string case_id;
  FailureClass failure_class = FailureClass::kUndetermined;
  bool inherited = false;
  bool gold_checked = false;
  bool gold_refused = false;  // by the verifier; refusals of the tool runtime are not label noise
  int64_t pp_successes = 0;   // forced patch, original and siblings together
  int64_t pp_trials = 0;
};
enum class ExampleSource { kTeacherAnswer, kOwnSample, kHintedSample };
const char* ExampleSourceName(ExampleSource source);
// A case whose answer the verifier accepted. Holds hashes, no text.
struct VerifiedExample {
  std::string case_id;
  std::string content_hash;  // SHA-256 of messages + answer
  std::string near_hash;     // the same over NormalizeText
  std::string sub_intent;    // tool name, else the normalised answer
  ExampleSource source = ExampleSource::kTeacherAnswer;
  int64_t tokens = 0;  // prompt + answer; 0 = not counted
};
struct PatchAttempt {
  std::string case_id;  // the failure it was made for
  PatchKind kind = PatchKind::kNone;
  int64_t tokens = 0;      // added to a request that retrieves it
  double rate_before = 0;  // measured by the gate
  double rate_after = 0;
  bool accepted = false;
};
struct TrainingAttempt {
  bool completed =
      false;  // false: crashed or refused; the ticket is tried again a limited number of times
  int64_t num_examples = 0;
  std::string adapter;  // digest when completed
  std::string error;    // why not, when not
};
enum class GateResult { kAccept, kReject, kInconclusive };
const char* GateResultName(GateResult result);
struct GateRecord {
  std::string adapter;
  GateResult result = GateResult::kInconclusive;
  double gain = 0;  // measured paired gain on query
  double loss = 0;  // measured paired loss on anchor
};

using TicketPayload = std::variant<Transition, ProbeRecord, VerifiedExample, PatchAttempt,
                                   TrainingAttempt, GateRecord>;

struct TicketEvent {
  int64_t seq = 0;  // 1, 2, 3, ... over the whole ledger, without gaps
  std::string cluster;
  std::vector<std::string> evidence;  // ids of episodes, probes, versions or verdicts; at least one
  TicketPayload payload;
};
Json TicketEventToJson(const TicketEvent& event);
// Strict: unknown field, wrong type, negative count or unknown word give InvalidArgument.
absl::StatusOr<TicketEvent> TicketEventFromJson(const Json& json);

struct Ticket {
  std::string id;  // TicketId(cluster)
  std::string cluster;
  TicketState state = TicketState::kOpen;
  std::vector<ProbeRecord> probes;
  size_t first_current_probe = 0;         // probes before it were made under other weights
  std::vector<VerifiedExample> examples;  // unique by both hashes, in order of arrival
  int64_t num_duplicates = 0;
  std::vector<PatchAttempt> patch_attempts;
  std::vector<TrainingAttempt> training_attempts;
  std::vector<GateRecord> gate_outcomes;
};

struct Ledger {
  int max_training_crashes = 3;  // in a row, per ticket
  int64_t last_seq = 0;
  std::map<std::string, Ticket> tickets;  // by cluster
};

std::string TicketId(absl::string_view cluster);  // "t-" + 12 hex digits

// The ledger after `event`. The first event of a cluster is a Transition to open.
// Errors: InvalidArgument     empty cluster, no evidence, malformed payload
//         FailedPrecondition  seq is not last_seq + 1; unknown ticket or opened twice; transition
//         that does
//                             not exist; its evidence is missing (reproduced without a probe
//                             record, patched without an accepted attempt, queued without an
//                             example or after max_training_crashes, gated without a completed
//                             training, promoted without an accepting gate outcome of the last
//                             adapter); a training attempt outside `training`, a gate outcome
//                             outside `gated`
// A duplicate example is not an error: it is counted, not kept.
absl::StatusOr<Ledger> ApplyEvent(Ledger ledger, const TicketEvent& event);
absl::StatusOr<Ledger> ReplayEvents(Ledger empty, absl::Span<const TicketEvent> events);

// The example of a case with a verified `answer`: the feedback's own, or a sample of the model's.
// InvalidArgument: private or volatile case, empty answer, question or answer fails
// CheckUntrustedText.
absl::StatusOr<VerifiedExample> MakeExample(const Case& c, absl::string_view answer,
                                            ExampleSource source, int64_t tokens);

// The probe record of a diagnosis.
ProbeRecord RecordOf(const Diagnosis& diagnosis);

// One ticket as deciding code sees it.
struct TicketSummary {
  std::string id;
  std::string cluster;
  TicketState state = TicketState::kOpen;
  // Most frequent inheritable class of the current probes (ties: enum order), inherited ones
  // included.
  FailureClass failure_class = FailureClass::kUndetermined;
  ClusterEvidence evidence;
  int64_t num_failures = 0;  // distinct failed cases
  int64_t gold_checked = 0;
  int64_t gold_refused = 0;
  int64_t pp_successes = 0;  // pooled over the current probes
  int64_t pp_trials = 0;
  int64_t num_sub_intents = 0;     // distinct, over the examples
  double mean_example_tokens = 0;  // over the examples that counted theirs; 0 = none did
  int64_t num_duplicates = 0;
  int64_t crashes_in_row = 0;
  int64_t trained_examples = 0;  // of the last completed training; 0 = never
  std::vector<VerifiedExample> examples;
  std::vector<PatchAttempt> patch_attempts;
  std::vector<GateRecord> gate_outcomes;
};

struct LedgerSnapshot {
  int64_t requests_seen = 0;  // solved requests so far, passed or failed
  int max_training_crashes = 3;
  std::vector<TicketSummary> tickets;  // by cluster name
};

LedgerSnapshot Snapshot(const Ledger& ledger, int64_t requests_seen);
// nullptr when the cluster has no ticket.
const TicketSummary* FindTicket(const LedgerSnapshot& snapshot, absl::string_view cluster);
// Evidence about the cluster under the current weights; empty for a cluster without a ticket.
ClusterEvidence EvidenceOf(const Ledger& ledger, absl::string_view cluster);

}  // namespace evolora
