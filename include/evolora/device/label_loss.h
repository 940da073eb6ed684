#pragma once

#include <cmath>

#include "evolora/device/host_device.h"

// Losses that see the logits through the log-probabilities of labels: their formulas, for host and
// device. `weight` is d loss / d(-log p) of a label.
namespace evolora {

// Policy gradient (trainers/objective.h): with ratio r = p / old and advantage A
//   grpo   -min(r A, clamp(r, low, high) A)
//   cispo  -min(r, high) A log p, the factor before log p without gradient
//   each   + kl_beta (ref / p - log(ref / p) - 1)
struct PolicyForm {
  bool cispo = false;
  double low = 0;
  double high = 0;
  double kl_beta = 0;
};
struct PolicyLabel {
  double log_prob;
  double old_log_prob;
  double reference;  // 0 = not used
  double advantage;
};
struct PolicyTerm {
  double loss;
  double weight;
  double ratio;
  double clipped;  // 1 or 0
  double old_kl;   // 1 / r - 1 + log r
};

EVOLORA_HOST_DEVICE inline PolicyTerm PolicyTermOf(const PolicyForm& form, const PolicyLabel& at) {
  const double log_ratio = at.log_prob - at.old_log_prob;
  const double ratio = exp(log_ratio);
  PolicyTerm term = {0, 0, ratio, 0, exp(-log_ratio) + log_ratio - 1};
  if (form.cispo) {
    term.clipped = ratio > form.high ? 1 : 0;
    term.weight = (ratio > form.high ? form.high : ratio) * at.advantage;
    term.loss = -term.weight * at.log_prob;
  } else {
    const double held = ratio < form.low ? form.low : ratio > form.high ? form.high : ratio;
    // d r / d(-log p) = -r; none where the clipped side is the smaller one.
    const bool clipped = held * at.advantage < ratio * at.advantage;
    term.clipped = clipped ? 1 : 0;
    term.loss = -(clipped ? held : ratio) * at.advantage;
    term.weight = clipped ? 0 : ratio * at.advantage;
  }
  if (form.kl_beta > 0) {
    const double d = at.reference - at.log_prob;
    term.loss += form.kl_beta * (exp(d) - d - 1);
    term.weight += form.kl_beta * (exp(d) - 1);
  }
  return term;
}

// Direct preference optimisation: with h the difference of the rewards beta (log p - log ref) of
// two answers, -(1 - smoothing) log sigmoid(h) - smoothing log sigmoid(-h).
struct DpoForm {
  double beta = 0;
  double smoothing = 0;
};
struct DpoTerm {
  double loss;
  double reward_chosen;
  double reward_rejected;
  double chosen_weight;  // of each label of the chosen answer; the rejected ones' is its negative
};

// log sigmoid(x) without overflow.
EVOLORA_HOST_DEVICE inline double LogSigmoid(double x) {
  return (x < 0 ? x : 0.0) - log1p(exp(x < 0 ? x : -x));
}

// From log p - log ref, summed over the labels of each answer.
EVOLORA_HOST_DEVICE inline DpoTerm DpoTermOf(const DpoForm& form, double chosen, double rejected) {
  DpoTerm term = {0, form.beta * chosen, form.beta * rejected, 0};
  const double h = term.reward_chosen - term.reward_rejected;
  term.loss = -(1 - form.smoothing) * LogSigmoid(h) - form.smoothing * LogSigmoid(-h);
  // -beta d loss / d h
  term.chosen_weight = form.beta * ((1 - form.smoothing) * exp(LogSigmoid(-h)) -
                                    form.smoothing * exp(LogSigmoid(h)));
  return term;
}

}  // namespace evolora
