#include "evolora/evolver/decide.h"
#include "evolora/evolver/diagnose.h"
#include "evolora/evolver/train_when.h"

namespace evolora {
namespace {

Json OptionalNumber(const std::optional<double>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

Json RateToJson(const MeasuredRate& rate) {
  return {{"kind", ProbeKindName(rate.kind)},
          {"target", ProbeTargetName(rate.target)},
          {"successes", rate.counts.successes},
          {"trials", rate.counts.trials},
          {"tool_errors", rate.counts.tool_errors},
          {"rate", rate.rate},
          {"low", rate.interval.low},
          {"high", rate.interval.high}};
}

Json MaskToJson(const FiredMask& mask) {
  return {{"rule", mask.rule}, {"closes", mask.closes}, {"why", mask.why}};
}

Json AlternativeToJson(const Alternative& alternative) {
  return {{"action", ActionName(alternative.action)},
          {"utility", alternative.utility},
          {"masked", alternative.masked}};
}

template <typename T>
Json ListToJson(const std::vector<T>& items, Json (*to_json)(const T&)) {
  Json list = Json::array();
  for (const T& item : items) list.push_back(to_json(item));
  return list;
}

}  // namespace

Json DiagnosisToJson(const Diagnosis& d) {
  Json json;
  json["episode_id"] = d.episode_id;
  json["case_id"] = d.case_id;
  json["cluster"] = d.cluster;
  json["tool"] = d.tool;
  json["class"] = FailureClassName(d.failure_class);
  json["inherited"] = d.inherited;
  json["is_procedure"] = d.is_procedure;
  json["is_volatile"] = d.is_volatile;
  json["is_private"] = d.is_private;
  json["has_answer"] = d.has_answer;
  json["has_provenance"] = d.has_provenance;
  json["gold_checked"] = d.gold_checked;
  json["patch_in_state"] = d.patch_in_state;
  json["untrusted_text"] = d.untrusted_text;
  json["contradicts"] = d.contradicts;
  json["candidate"] = PatchKindName(d.candidate);
  json["patch_tokens"] = d.patch_tokens;
  json["num_siblings"] = d.num_siblings;
  json["rates"] = ListToJson(d.rates, RateToJson);
  json["activation_gap"] = OptionalNumber(d.activation_gap);
  json["adherence_gap"] = OptionalNumber(d.adherence_gap);
  json["portability_gap"] = OptionalNumber(d.portability_gap);
  json["confidence"] = d.confidence;
  json["reason"] = d.reason;
  return json;
}

Json DecisionToJson(const Decision& decision) {
  Json json;
  json["cluster"] = decision.cluster;
  json["case_id"] = decision.case_id;
  json["episode_id"] = decision.episode_id;
  json["action"] = ActionName(decision.action);
  json["lever"] = LeverName(decision.lever);
  json["add_validation_case"] = decision.add_validation_case;
  json["validation_reason"] = decision.validation_reason;
  json["record_example"] = decision.record_example;
  json["reason"] = decision.reason;
  json["numbers"] = decision.numbers;
  json["masks"] = ListToJson(decision.masks, MaskToJson);
  json["alternatives"] = ListToJson(decision.alternatives, AlternativeToJson);
  return json;
}

Json TrainingPlanToJson(const TrainingPlan& plan) {
  Json json;
  json["ticket"] = plan.ticket;
  json["cluster"] = plan.cluster;
  json["example_case_ids"] = plan.example_case_ids;
  json["data_source"] = DataSourceName(plan.data_source);
  json["scope"] = {{"trigger", TriggerToJson(plan.scope.trigger)},
                   {"disjoint", plan.scope.disjoint},
                   {"reason", plan.scope.reason}};
  json["recipe"] = {{"rank", plan.recipe.rank},
                    {"alpha", plan.recipe.alpha},
                    {"learning_rate", plan.recipe.learning_rate},
                    {"epochs", plan.recipe.epochs},
                    {"anchor_replay_share", plan.recipe.anchor_replay_share}};
  json["reason"] = plan.reason;
  json["numbers"] = plan.numbers;
  return json;
}

}  // namespace evolora
