#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/json.h"
#include "evolora/model/weight_storage.h"
#include "evolora/trainers/objective.h"

namespace evolora {

// What is trained.
//   kLora  an adapter beside the frozen base
//   kFull  every weight of the base: embedding, head (a tied one stays tied), linear layers, norms,
//          biases. The result is a base of its own (full_trainer.h). As Transformers' Trainer does
//          it: weight_decay is for matrices alone, not for norms and biases. On the fast and the
//          reference path, in fp32. The frozen model of an objective is the base as it was; distill
//          needs distill_top_k, since its teacher's hidden states would meet a head that moves.
enum class TrainingMethod { kLora, kFull };
const char* MethodName(TrainingMethod method);  // "lora", "full"

// How gradients are computed. All give the same numbers up to the order of fp32 sums.
//   kFast       forward and backward written by hand; no padding, common prefixes of the rows of a
//               micro-batch computed once
//   kReference  autograd over the plain forward pass (evolora/model/reference_forward.h): to
//   compare
//   kDevice     the fast path's formulas as operations that a GPU runs, too; on the CPU to compare
enum class TrainingPath { kFast, kReference, kDevice };

// Numbers of the base, of activations and of adapters; losses, norms of the gradient and learning
// rates are fp32 or wider in all.
//   kFp32           as PEFT in fp32, step by step
//   kBf16Autocast   on the CPU. Reference path: as PEFT under torch.autocast(bfloat16) beside a
//                   base loaded in bf16: base, activations and logits are bf16; RMSNorm, the
//                   softmax of attention and the loss compute in fp32 and round; each product of a
//                   linear layer or an adapter's A or B takes bf16 factors, adds in fp32 and
//                   rounds; adapters, their gradients and moments are fp32. Fast path: the base is
//                   bf16, and the products of linear layers, A, B and head take bf16 factors,
//                   forward and backward, for the gradients of A and B, too; their sums and all
//                   that is between them (residual stream, norms, attention, logits) stay fp32, so
//                   that it rounds where the reference rounds before a product and not after it
//   kBf16           on the CPU, by both paths: so, and adapters, gradients and moments are rounded
//                   to bf16 after every step too, as PEFT keeps them with
//                   autocast_adapter_dtype=False. On the device path: base and activations rounded
//                   to bf16, sums in fp32, adapters and moments fp32
enum class TrainingPrecision { kFp32, kBf16Autocast, kBf16 };

// Where an adapter starts.
//   kKaiming  A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0, as PEFT's default
//   kPissa    from the r largest singular values of W (Meng et al. 2024), beside the rest of W
//   kOlora    from r columns of Q and r rows of R, W = Q R (Buyukakyuz 2024), likewise
// The adapter that a run from kPissa or kOlora gives is plain LoRA for the untouched base, of twice
// the rank: trained less start.
enum class LoraInit { kKaiming, kPissa, kOlora };

enum class LearningRateSchedule { kConstant, kLinear, kCosine };

// How one LoRA adapter, or a whole base, is trained. JSON names equal the field names; an unknown
// key is an error.
struct LoraRecipe {
  TrainingMethod method = TrainingMethod::kLora;  // JSON: "lora", "full"

  // Of an adapter: with the method kFull each of these, down to lora_plus_ratio, is an error.
  int64_t rank = 16;        // 1..512
  double alpha = 32;        // scale = alpha / rank, as in PEFT
  bool use_rslora = false;  // scale = alpha / sqrt(rank) (Kalajdzievski 2023)
  // DoRA (Liu et al. 2024): each output row also gets a trained magnitude, which starts at its
  // norm; the norm that it is divided by takes no gradient, as in PEFT. LoRA+ counts it with B.
  // Costs the outputs of the adapted layers in memory; vLLM and llama.cpp refuse the adapter.
  bool use_dora = false;
  // Share of the features that each adapter's A does not see, drawn anew for every token and step
  // from `seed`; the frozen layers see all (PEFT's lora_dropout). Both paths draw the same. The
  // fast path then computes shared prefixes in every row, as each row has its own mask. Not with
  // use_dora.
  double lora_dropout = 0;
  // Leaf names (q_proj), suffixes (self_attn.q_proj) or full paths; empty = every linear layer
  // of the decoder but the head ("all-linear").
  std::vector<std::string> target_modules;
  std::vector<std::string> exclude_modules;  // of those, in the same words
  // Rank and alpha of single modules: by a name as above or a regex, as PEFT matches the keys of
  // its own patterns. Two keys that give one module different values are an error.
  std::map<std::string, int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  // Modules that are trained as a whole beside the adapters, from the base's values, and stored as
  // full weights: the embedding, the head and norms whose paths end with one of these (as texts, as
  // in PEFT: "norm" means input_layernorm, too). A tied head becomes one of its own. vLLM and
  // llama.cpp refuse such adapters. Objective sft; not with
  // another init_lora_weights, lora_plus_ratio or weight_decay.
  std::vector<std::string> modules_to_save;
  LoraInit init_lora_weights = LoraInit::kKaiming;  // others: without use_dora and initial adapter
  double lora_plus_ratio = 1;  // learning rate of B over that of A (LoRA+, Hayou et al. 2024)

  double learning_rate = 3e-4;
  LearningRateSchedule schedule = LearningRateSchedule::kLinear;  // decays to zero
  double warmup_ratio = 0;  // share of all steps, rising linearly from zero
  int64_t epochs = 3;
  int64_t max_steps = 0;      // > 0 cuts the run short; the schedule spans these steps, as in HF
  int64_t rows_per_step = 8;  // optimiser batch
  // Tokens that go through the model at once: a limit on memory, no part of the result. The fast
  // path counts a shared prefix once, the reference counts padding. A longer row goes alone.
  int64_t tokens_per_micro_batch = 1024;
  double weight_decay = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double max_grad_norm = 1.0;     // 0 = no clipping
  double replay_share = 0.25;     // of all rows of an epoch, taken from the rows marked replay
  uint64_t seed = 0;              // adapter initialisation, row order and dropout
  int64_t max_row_tokens = 2048;  // a longer row is refused, or cut, as max_cut_share says
  // Share of the rows that may be cut at max_row_tokens; above it the data set is refused.
  double max_cut_share = 0;
  // Refuse a data set in which no row labels an end of turn; false for texts that never end.
  bool require_end_of_turn = true;
  int64_t checkpoint_every_steps = 20;
  TrainingPath path = TrainingPath::kFast;  // on a CUDA device kFast means kDevice
  TrainingPrecision precision = TrainingPrecision::kFp32;
  // How the base's matrices lie in memory, on the device path in the device's (QLoRA-style where
  // not fp32: each is widened where it is used, block by block or, on the device path, matrix by
  // matrix to the precision; adapters stay as precision says). What is trained is an adapter of the
  // rounded base; no such run is PEFT's step by step. Not with use_dora or another
  // init_lora_weights, which read the base's own numbers.
  WeightStorage base_weights = WeightStorage::kFp32;
  ObjectiveSettings objective;  // its keys stand beside the others: see objective.h
};

// InvalidArgument names key and number.
absl::Status ValidateRecipe(const LoraRecipe& recipe);
absl::StatusOr<LoraRecipe> RecipeFromJson(const Json& json);
absl::StatusOr<LoraRecipe> ParseRecipe(absl::string_view json_text);
Json RecipeToJson(const LoraRecipe& recipe);

// The greatest rank that a module of the adapter can have which a run with this recipe gives.
// REQUIRES: the method kLora.
int64_t GreatestRank(const LoraRecipe& recipe);

// How the base of a run on `device` (as in TrainOptions) is best loaded: as base_weights says; in
// place of kFp32, as kBf16 where the fast path would round it so, and as kExact where that path can
// compute with blocks.
WeightStorage StorageToLoad(const LoraRecipe& recipe, absl::string_view device);
// That of runs which share the base: as the first says, and as kFp32 in place of kExact where not
// all of them say that.
WeightStorage StorageToLoad(absl::Span<const LoraRecipe> recipes, absl::string_view device);
// Whether a base that was loaded as `loaded` gives a run the numbers that it asks for.
bool TakesBase(const LoraRecipe& recipe, absl::string_view device, WeightStorage loaded);

// Learning rate of optimiser step `step` (from 0) of `total_steps`, as Hugging Face's schedules
// give it: with warm-up, step 0 runs at rate 0.
double LearningRateAt(const LoraRecipe& recipe, int64_t step, int64_t total_steps);

}  // namespace evolora
