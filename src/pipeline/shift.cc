#include "evolora/pipeline/shift.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "evolora/core/check.h"
#include "evolora/core/status_macros.h"
#include "evolora/eval/request_key.h"

namespace evolora {
namespace {

double LogSumExp(absl::Span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return top + std::log(sum);
}

absl::StatusOr<ScoreRequest> Scoring(const LanguageModel& model, const GenerateRequest& request) {
  ScoreRequest score{.ids = request.ids, .adapter = request.adapter, .want_last_logits = true};
  if (score.ids.empty()) {
    ASSIGN_OR_RETURN(score.ids, model.EncodeChat(request.messages));
  }
  return score;
}

}  // namespace

double KlOfLogits(absl::Span<const float> p_logits, absl::Span<const float> q_logits) {
  EVOLORA_CHECK(p_logits.size() == q_logits.size() && !p_logits.empty(), "one vocabulary");
  const double log_p_sum = LogSumExp(p_logits);
  const double log_q_sum = LogSumExp(q_logits);
  double kl = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double log_p = static_cast<double>(p_logits[i]) - log_p_sum;
    const double log_q = static_cast<double>(q_logits[i]) - log_q_sum;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  return std::max(0.0, kl);
}

absl::StatusOr<double> MeanFirstTokenKl(LanguageModel& model,
                                        absl::Span<const GenerateRequest> before,
                                        absl::Span<const GenerateRequest> after) {
  EVOLORA_CHECK(before.size() == after.size(), "requests come in pairs");
  std::vector<ScoreRequest> scores;  // before, after, before, after ...
  for (size_t i = 0; i < before.size(); ++i) {
    if (RequestKey(before[i]) == RequestKey(after[i])) continue;
    ASSIGN_OR_RETURN(ScoreRequest p, Scoring(model, before[i]));
    ASSIGN_OR_RETURN(ScoreRequest q, Scoring(model, after[i]));
    scores.push_back(std::move(p));
    scores.push_back(std::move(q));
  }
  if (scores.empty()) return 0.0;
  ASSIGN_OR_RETURN(const std::vector<Scored> scored, model.Score(scores));
  double sum = 0;
  for (size_t i = 0; i + 1 < scored.size(); i += 2) {
    sum += KlOfLogits(scored[i].last_logits, scored[i + 1].last_logits);
  }
  if (!std::isfinite(sum)) return absl::InternalError("logits of an anchor are not finite");
  return sum / static_cast<double>(before.size());
}

}  // namespace evolora
