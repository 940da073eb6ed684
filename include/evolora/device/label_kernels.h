#pragma once

#include <cstdint>

#include "evolora/device/label_loss.h"

// Arguments of the kernels for losses of label_loss.h. Row m of the logits has one label.
namespace evolora {

enum class ElementType;

// log_sums = log(sum of exp(logits)); log_probs of the labels.
struct LabelLogProbsArgs {
  ElementType type = {};
  const void* logits = nullptr;  // [rows, vocabulary]
  int64_t rows = 0;
  int64_t vocabulary = 0;
  const int32_t* ids = nullptr;  // [rows], as all below
  double* log_sums = nullptr;
  double* log_probs = nullptr;
};

// The logits become factor * weight * (softmax - 1 at the label).
struct LabelGradientArgs {
  ElementType type = {};
  void* logits = nullptr;  // [rows, vocabulary]
  int64_t rows = 0;
  int64_t vocabulary = 0;
  const int32_t* ids = nullptr;  // [rows]
  const double* log_sums = nullptr;
  const double* weights = nullptr;
  const float* factor = nullptr;  // [1]
};

// What label losses give beside the weights: terms to be added up. The first is the loss.
constexpr int64_t kLossTerms = 5;

// Terms: loss, 1, ratio, clipped, old_kl. Loss and weight are multiplied with the label's share. A
// label with count 0 is padding: zeros.
struct PolicyLossArgs {
  PolicyForm form;
  int64_t labels = 0;
  const double* log_probs = nullptr;  // [labels], as all
  const double* old_log_probs = nullptr;
  const double* references = nullptr;
  const double* advantages = nullptr;
  const double* shares = nullptr;
  const int32_t* counts = nullptr;
  double* weights = nullptr;
  double* terms = nullptr;  // [labels, kLossTerms]
};

// Terms of a pair: loss, 1, reward of the chosen answer, of the rejected one, 1 if the first is
// greater. Weights of the labels of its answers. A pair of empty answers is padding: zeros.
struct DpoLossArgs {
  DpoForm form;
  int64_t pairs = 0;
  const double* log_probs = nullptr;   // by label
  const int32_t* answers = nullptr;    // [pairs, 4]: begin and end of the labels of each answer
  const double* references = nullptr;  // [pairs, 2]: sums over the labels of each answer
  double* weights = nullptr;           // by label; those of no pair are left alone
  double* terms = nullptr;             // [pairs, kLossTerms]
};

// Distillation over the teacher's likeliest tokens and the rest of the vocabulary as one, at a
// temperature T: loss = sum of p log(p / q) + R log(R / r), R and r the rest's shares of teacher
// and model. The logits become factor * d loss / d logits; a row with count 0 is padding: zeros.
struct DistillTopArgs {
  ElementType type = {};
  void* logits = nullptr;  // [rows, vocabulary]
  int64_t rows = 0;
  int64_t vocabulary = 0;
  int64_t kept = 0;                   // tokens of a row, fewer than the vocabulary
  const int32_t* ids = nullptr;       // [rows, kept], ascending in a row
  const double* log_probs = nullptr;  // [rows, kept] log p
  const double* log_rests = nullptr;  // [rows] log R
  const int32_t* counts = nullptr;    // [rows]
  float inverse_temperature = 1;
  const float* factor = nullptr;  // [1]
  double* losses = nullptr;       // [rows, kept + 1]: to be added up
};

// Distillation over the whole vocabulary: loss = KL(p || q), p and q the softmaxes of the teacher's
// logits and the model's over T.
struct DistillWholeArgs {
  ElementType type = {};
  void* logits = nullptr;         // [rows, vocabulary]
  const void* teacher = nullptr;  // the same
  int64_t rows = 0;
  int64_t vocabulary = 0;
  const int32_t* counts = nullptr;  // [rows]
  float inverse_temperature = 1;
  const float* factor = nullptr;  // [1]
  double* losses = nullptr;       // [rows]
};

}  // namespace evolora
