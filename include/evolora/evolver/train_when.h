#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "evolora/core/json.h"
#include "evolora/core/trigger.h"
#include "evolora/evolver/ledger.h"
#include "evolora/evolver/policy.h"

namespace evolora {

enum class DataSource { kTeacherAnswers, kOwnVerifiedSamples, kHintedSelfSamples };
const char* DataSourceName(DataSource source);

struct RecipeSuggestion {
  int rank = 16;
  double alpha = 32;
  double learning_rate = 3e-4;
  int epochs = 3;
  double anchor_replay_share = 0;  // of the training rows, replayed from replay anchors
};

struct ScopeSuggestion {
  Trigger trigger;        // `all` when no trigger separates the requests
  bool disjoint = false;  // matches none of the outside texts, and there were some
  std::string reason;
};

struct TrainingPlan {
  std::string ticket;
  std::string cluster;
  std::vector<std::string> example_case_ids;  // in order of arrival
  DataSource data_source = DataSource::kTeacherAnswers;
  ScopeSuggestion scope;
  RecipeSuggestion recipe;
  std::string reason;
  std::map<std::string, double> numbers;
};

// Request texts (RequestText) of the cluster and of what must stay as it is: requests that pass,
// and other clusters that no adapter is meant for. Leave out failures that look alike but are
// plumbing.
struct ScopeTexts {
  std::vector<std::string> inside;
  std::vector<std::string> outside;
};

struct StreamOutlook {
  int64_t stream_remaining = 0;             // requests still to come; 0 = the stream is at its end
  std::map<std::string, ScopeTexts> texts;  // by cluster
};

// The training job that should start now, if any. Considers tickets in `waiting` and `queued` that
// pass TrainingMasks; of several the one with the largest value; ties by cluster name.
//
// One-step look-ahead over the rest of the stream (optimal stopping). With n verified unique
// examples, quality q(n) = p (1 - exp(-n / tau)), p the prior or measured P_fix, l = the cluster's
// failures per request, a = its new examples per request, w = one window (at most what remains), R
// = stream_remaining:
//   V(n, R) = q(n) l v R - train_factor n tokens epochs
//   train now  iff  V(n, R) > 0  and  V(n, R) >= V(n + a w, R - w)
// Below the minimum of examples: never. At the end of the stream (R = 0): train whenever the masks
// allow, since nothing is left to wait for and the state goes on to serve. What follows the stream
// is left out of V: it profits from the final training in either case. A ticket that trained before
// needs retrain_growth times its examples. kFixedSchedule trains at every fixed_schedule_every new
// examples instead; kAlwaysPatch never.
std::optional<TrainingPlan> TrainWhen(const LedgerSnapshot& snapshot, const DecisionPolicy& policy,
                                      const StreamOutlook& outlook);

// A trigger of all inside texts and at most 5 % of the outside ones (`disjoint`: none), a phrase
// that all inside texts share before a list of alternatives; `all` when there is none or nothing to
// separate from.
ScopeSuggestion SuggestScope(const ScopeTexts& texts, int max_terms);

Json TrainingPlanToJson(const TrainingPlan& plan);

}  // namespace evolora
