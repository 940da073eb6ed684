#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "evolora/evolver/decide.h"

namespace evolora {

// The quantities of the utility formula (decide.h), computed once per decision.
struct Economy {
  double failures = 1;      // m
  double share = 0;         // s
  double requests = 0;      // n
  double validity = 1;      // g
  double patch_tokens = 0;  // t (1 - h)
  double train_tokens = 0;  // T_train: tokens of all epochs
  double p_fix_text = 0;
  double p_sib_text = 0;
  double p_fix_weights = 0;
  double p_sib_weights = 0;
  std::optional<double> break_even_requests;  // none without patch tokens
};

// `ticket` may be null.
Economy EconomyOf(const Diagnosis& diagnosis, const TicketSummary* ticket, int64_t requests_seen,
                  const DecisionPolicy& policy);

// U(action) per failure; abstain and the validation case are 0.
double Utility(Action action, const Economy& economy, const Prices& prices);

// Adds every quantity by name.
void AddNumbers(const Economy& economy, std::map<std::string, double>& numbers);

// P_fix of an adapter: measured by the gate, else the class's prior.
double WeightsFixRate(FailureClass failure_class, const TicketSummary* ticket,
                      const LoraPriors& priors);
// example_visits / examples, rounded, within 1..max_epochs.
int EpochsFor(int64_t num_examples, const LoraRules& rules);
// Trained tokens of a job over the ticket's examples, at least min_examples of them.
double TrainTokens(const TicketSummary* ticket, const DecisionPolicy& policy);
// (failures + 1) / (requests + 2), at most 1.
double ClusterShare(int64_t num_failures, int64_t requests_seen);

}  // namespace evolora
