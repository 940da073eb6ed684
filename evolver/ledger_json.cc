#include <array>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/evolver/ledger.h"

namespace evolora {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 53;  // JSON numbers are exact up to here

// Reads an enum by its word; an unknown one is recorded as an error of `key`.
template <typename Enum>
Enum ReadEnum(JsonFields& f, absl::string_view key, const char* (*name_of)(Enum), int num_values) {
  const std::string word = f.String(key);
  for (int i = 0; i < num_values; ++i) {
    if (word == name_of(static_cast<Enum>(i))) return static_cast<Enum>(i);
  }
  f.Fail(key, absl::StrCat("unknown word \"", word, "\""));
  return static_cast<Enum>(0);
}

int64_t ReadCount(JsonFields& f, absl::string_view key) { return f.Integer(key, 0, kMaxCount); }

Json PayloadToJson(const Transition& p) {
  return {{"type", "transition"}, {"to", TicketStateName(p.to)}, {"why", p.why}};
}
Json PayloadToJson(const ProbeRecord& p) {
  return {{"type", "probe"},
          {"case_id", p.case_id},
          {"class", FailureClassName(p.failure_class)},
          {"inherited", p.inherited},
          {"gold_checked", p.gold_checked},
          {"gold_refused", p.gold_refused},
          {"pp_successes", p.pp_successes},
          {"pp_trials", p.pp_trials}};
}
Json PayloadToJson(const VerifiedExample& p) {
  return {{"type", "example"},
          {"case_id", p.case_id},
          {"content_hash", p.content_hash},
          {"near_hash", p.near_hash},
          {"sub_intent", p.sub_intent},
          {"source", ExampleSourceName(p.source)},
          {"tokens", p.tokens}};
}
Json PayloadToJson(const PatchAttempt& p) {
  return {{"type", "patch"},       {"case_id", p.case_id},         {"kind", PatchKindName(p.kind)},
          {"tokens", p.tokens},    {"rate_before", p.rate_before}, {"rate_after", p.rate_after},
          {"accepted", p.accepted}};
}
Json PayloadToJson(const TrainingAttempt& p) {
  return {{"type", "training"},
          {"completed", p.completed},
          {"num_examples", p.num_examples},
          {"adapter", p.adapter},
          {"error", p.error}};
}
Json PayloadToJson(const GateRecord& p) {
  return {{"type", "gate"},
          {"adapter", p.adapter},
          {"result", GateResultName(p.result)},
          {"gain", p.gain},
          {"loss", p.loss}};
}

TicketPayload ReadTransition(JsonFields& f) {
  Transition p;
  p.to = ReadEnum<TicketState>(f, "to", TicketStateName, 11);
  p.why = f.String("why");
  return p;
}
TicketPayload ReadProbe(JsonFields& f) {
  ProbeRecord p;
  p.case_id = f.String("case_id");
  p.failure_class = ReadEnum<FailureClass>(f, "class", FailureClassName, 12);
  p.inherited = f.Bool("inherited");
  p.gold_checked = f.Bool("gold_checked");
  p.gold_refused = f.Bool("gold_refused");
  p.pp_successes = ReadCount(f, "pp_successes");
  p.pp_trials = ReadCount(f, "pp_trials");
  return p;
}
TicketPayload ReadExample(JsonFields& f) {
  VerifiedExample p;
  p.case_id = f.String("case_id");
  p.content_hash = f.String("content_hash");
  p.near_hash = f.String("near_hash");
  p.sub_intent = f.String("sub_intent");
  p.source = ReadEnum<ExampleSource>(f, "source", ExampleSourceName, 3);
  p.tokens = ReadCount(f, "tokens");
  return p;
}
TicketPayload ReadPatch(JsonFields& f) {
  PatchAttempt p;
  p.case_id = f.String("case_id");
  p.kind = ReadEnum<PatchKind>(f, "kind", PatchKindName, 5);
  p.tokens = ReadCount(f, "tokens");
  p.rate_before = f.Number("rate_before");
  p.rate_after = f.Number("rate_after");
  p.accepted = f.Bool("accepted");
  return p;
}
TicketPayload ReadTraining(JsonFields& f) {
  TrainingAttempt p;
  p.completed = f.Bool("completed");
  p.num_examples = ReadCount(f, "num_examples");
  p.adapter = f.String("adapter");
  p.error = f.String("error");
  return p;
}
TicketPayload ReadGate(JsonFields& f) {
  GateRecord p;
  p.adapter = f.String("adapter");
  p.result = ReadEnum<GateResult>(f, "result", GateResultName, 3);
  p.gain = f.Number("gain");
  p.loss = f.Number("loss");
  return p;
}

using PayloadReader = TicketPayload (*)(JsonFields&);
constexpr std::array<std::pair<const char*, PayloadReader>, 6> kReaders = {{
    {"transition", ReadTransition},
    {"probe", ReadProbe},
    {"example", ReadExample},
    {"patch", ReadPatch},
    {"training", ReadTraining},
    {"gate", ReadGate},
}};

}  // namespace

Json TicketEventToJson(const TicketEvent& event) {
  Json json = std::visit([](const auto& payload) { return PayloadToJson(payload); }, event.payload);
  json["seq"] = event.seq;
  json["cluster"] = event.cluster;
  json["evidence"] = event.evidence;
  return json;
}

absl::StatusOr<TicketEvent> TicketEventFromJson(const Json& json) {
  JsonFields f(json, "ticket_event");
  TicketEvent event;
  event.seq = f.Integer("seq", 1, kMaxCount);
  event.cluster = f.String("cluster");
  event.evidence = f.StringArray("evidence");
  const std::string type = f.String("type");
  RETURN_IF_ERROR(f.status());
  for (const auto& [name, read] : kReaders) {
    if (type != name) continue;
    event.payload = read(f);
    RETURN_IF_ERROR(f.Done());
    return event;
  }
  return absl::InvalidArgumentError(absl::StrCat("ticket_event.type: unknown word \"", type, "\""));
}

}  // namespace evolora
