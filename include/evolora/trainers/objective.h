#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "evolora/core/json.h"

namespace evolora {

// What a run minimises. "Label" below: a labelled token, as in training_data.h.
//   kSft      cross entropy; mean over the labels of the step
//   kDistill  self-distillation: the model learns to say without a hint what a frozen teacher says
//             with it. Mean over the labels of the step of KL(teacher || model), each at its own
//             position of the same answer; both logits are divided by the temperature first (no
//             factor T^2). With top_k k: over the teacher's k likeliest tokens and one bucket for
//             all others, which is a lower bound of the whole.
//   kDpo      direct preference optimisation (Rafailov et al. 2023, equation 7); mean over the
//             pairs of the step of
//               -(1 - smoothing) log sigmoid(h) - smoothing log sigmoid(-h)
//               h = beta (log p(chosen) - log ref(chosen) - log p(rejected) + log ref(rejected))
//             log p of an answer = sum over its labels. Smoothing: conservative DPO (Mitchell
//             2023).
//   kPolicy   policy gradient on samples with rewards. With advantage a of the sample and the ratio
//             r = p(label) / old(label), each label adds
//               grpo   -min(r a, clip(r, 1 - clip_low, 1 + clip_high) a)     (Shao et al. 2024)
//               cispo  -c a log p(label), c = min(r, 1 + clip_high) held fixed (MiniMax-M1 2025)
//             and kl_beta (exp(d) - d - 1), d = log ref(label) - log p(label).
//             Advantages from rewards: (reward - mean of the group) / (standard deviation of the
//             group, n - 1, + 1e-4); a group is all rows of the file with its name.
enum class ObjectiveKind { kSft, kDistill, kDpo, kPolicy };

// The frozen model that an objective compares with: the base without any adapter, or with the
// adapter that the run starts from. Its passes run once, before the first step (and again when a
// run is resumed): one forward pass of each row that the run visits.
enum class FrozenModel { kBase, kInit };

enum class PolicyLoss { kGrpo, kCispo };

// What the losses of a step's labels become. kTokens: their mean, so that long samples weigh more.
// kSequences: the mean over samples of the mean over each sample's labels.
enum class PolicyMean { kTokens, kSequences };

// The keys of a recipe that belong to its objective; JSON names are the field names, "objective"
// for `kind`. A key that the objective does not read is an error.
struct ObjectiveSettings {
  ObjectiveKind kind = ObjectiveKind::kSft;
  // Teacher of distill, reference of dpo and, with policy_kl_beta, of policy. JSON: "base", "init".
  FrozenModel reference = FrozenModel::kBase;

  // Kept of the teacher for each label: with 0 a hidden state (width floats; its logits are
  // computed anew at every step, one head product), else top_k ids and log-probabilities.
  int64_t distill_top_k = 0;       // 0 = whole vocabulary
  double distill_temperature = 1;  // > 0

  double dpo_beta = 0.1;           // > 0: how strongly p is held to the reference
  double dpo_label_smoothing = 0;  // [0, 0.5): share of pairs believed to be mislabelled

  PolicyLoss policy_loss = PolicyLoss::kGrpo;    // JSON: "grpo", "cispo"
  PolicyMean policy_mean = PolicyMean::kTokens;  // JSON: "tokens", "sequences"
  double policy_clip_low = 0.2;                  // grpo only
  double policy_clip_high = 0.2;
  bool policy_scale_rewards = true;  // false: advantages are not divided by the deviation
  double policy_kl_beta = 0;
};

const char* ObjectiveName(ObjectiveKind kind);  // "sft", "distill", "dpo", "policy"

// Takes the objective's keys out of a recipe; what is wrong is left in `fields`.
ObjectiveSettings ReadObjective(JsonFields& fields);
// Adds them to a recipe's JSON: those that the objective reads.
void WriteObjective(const ObjectiveSettings& settings, Json& recipe);
// InvalidArgument names key and number.
absl::Status ValidateObjective(const ObjectiveSettings& settings);

}  // namespace evolora
