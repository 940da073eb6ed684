#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/adapters/lora_adapter.h"
#include "evolora/core/clock.h"
#include "evolora/core/compute.h"
#include "evolora/core/language_model.h"

namespace evolora {

struct LlamaConfig;
struct LlamaWeights;

class Decoder;
class KvPool;
class PrefixStore;
struct PackedLora;

// How the engine keeps frozen weights that come in fp32 or 16 bits; those in fewer (LoadBase with
// kExact) stay as they are. kFp32 rounds nothing. kInt8 reads 9 bits a weight for each token and
// computes in fp32: its results are those of a base with rounded matrices.
enum class WeightFormat { kFp32, kInt8 };

// How many rows mostly decode at once. kMany is for 5 and more: CPUs with AMX then multiply bf16,
// int8 and 4-bit weights by tiles of 16 rows (SmolLM2, 2 threads: 16 rows 1.3 times as fast as with
// kFew, one row slower), prompts too, to the same exactness, in other last bits. The same as kFew
// on other CPUs and with other weights.
enum class RowsOfSteps { kFew, kMany };

struct EngineOptions {
  int64_t max_rows = 64;          // rows that decode at once; more wait their turn
  int64_t max_step_tokens = 512;  // tokens of one forward step (bounds the buffers)
  // Keys and values of all rows, as if none shared. Up to 128 MiB of it stay taken between calls.
  int64_t max_cache_bytes = int64_t{4} << 30;
  int64_t max_prefix_bytes = int64_t{512} << 20;  // keys and values of prompts kept between calls
  WeightFormat weights = WeightFormat::kFp32;
  RowsOfSteps rows_of_steps = RowsOfSteps::kFew;
  // Greedy rows guess up to so many tokens ahead from what their own context says after the same
  // words, and keep those that the model would have chosen: same output, fewer steps. 0 = off.
  int64_t max_lookup_tokens = 7;
  const Clock* clock = &SystemClock();  // for spent().seconds; must outlive the engine
};

struct EngineRequest {
  std::vector<TokenId> prompt;  // at least one id
  std::string adapter;          // a loaded digest; empty = bare base
  int32_t max_new_tokens = 64;  // >= 1
  Sampling sampling;
  std::vector<TokenId> stop_ids;  // end the row; not part of its ids
  // Called with each id that joins the row, in order, on the caller's thread; true ends the row.
  // May be empty.
  std::function<bool(TokenId)> on_token;
};

struct EngineCompletion {
  std::vector<TokenId> ids;      // without the stop id
  bool stopped = false;          // by a stop id or on_token; false: max_new_tokens reached
  std::vector<double> logprobs;  // natural log, of each of `ids` under the model at temperature 1
  TokenId stop_id = -1;          // that ended the row; -1: none did
  double stop_logprob = 0;       // of stop_id, as in logprobs
};

// Generates and scores token ids with a frozen base on the CPU, fp32: rows of unequal length share
// the matrix products without padding, each row with its own adapter or none; new rows join as
// soon as others finish; a prompt that begins like another row's (same adapter), of this call or
// an earlier one, takes over that row's keys and values instead of computing them again, and shares
// their memory.
//
// Exactness: the sums behind one token run in one fixed order that depends on its row alone, and on
//   whether the token is of its row's prompt. So a row's logits are the same bits whatever rows
//   stand beside it, however its prompt was cut into steps or shared, and with any number of
//   threads; a row without an adapter is the bare base bit for bit. (Tested for each of these.
//   Between CPU types, and between an id that was generated and the same id in a prompt, the last
//   bits may differ.)
//   Logits agree with ReferenceLogits within 1e-4 on unit-scale models.
// Threads: one caller at a time; LibTorch's threads inside (InitTorch).
// Memory: the weights once more, packed; once more as fp32 what a DoRA adapter (with magnitudes)
//   adapts, which its rows also spend the time of; a head of its own for an adapter that saves one,
//   and rows of adapters with saved modules take steps of their own; keys and values: 8 * layers *
//   kv heads * head_dim bytes for each position, of a beginning that rows share once, in blocks of
//   32 positions, and up to max_prefix_bytes after a call.
class Engine {
 public:
  // Errors: InvalidArgument  options out of range
  //         ResourceExhausted  no memory for the packed weights
  static absl::StatusOr<std::unique_ptr<Engine>> Create(std::shared_ptr<const LlamaWeights> weights,
                                                        const EngineOptions& options = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Loads an adapter and returns its digest (AdapterDigest). Loading it again changes nothing.
  // InvalidArgument: it does not fit the base; names the module.
  absl::StatusOr<std::string> LoadAdapter(const LoraAdapter& adapter);
  // NotFound when no such adapter is loaded.
  absl::Status UnloadAdapter(const std::string& digest);
  std::vector<std::string> LoadedAdapters() const;

  // One completion per request, in order.
  // Errors: InvalidArgument    names the row: empty prompt, id out of range, prompt +
  //                            max_new_tokens over the context, bad sampling values
  //         NotFound           adapter not loaded; names the row
  //         ResourceExhausted  one row's cache is over max_cache_bytes, or memory ran out
  //         Internal           logits are not finite
  absl::StatusOr<std::vector<EngineCompletion>> Generate(absl::Span<const EngineRequest> requests);
  // Log-probabilities of given ids. Errors: as Generate.
  absl::StatusOr<std::vector<Scored>> Score(absl::Span<const ScoreRequest> requests);

  // Since construction. prompt_tokens counts the ids of all prompts and scored rows; flops only
  // what was computed (shared prefixes once).
  const Compute& spent() const { return spent_; }
  const LlamaConfig& config() const;

 private:
  Engine(std::shared_ptr<const LlamaWeights> weights, const EngineOptions& options);
  absl::Status CheckRow(size_t row, absl::Span<const TokenId> ids, int64_t new_tokens,
                        const std::string& adapter) const;
  // Null for "": the bare base. REQUIRES: loaded.
  const PackedLora* FindLora(const std::string& adapter) const;
  struct LoadedLora {
    std::unique_ptr<const PackedLora> packed;
    std::unique_ptr<Decoder> decoder;  // with the adapter's saved modules; null: the engine's
  };
  template <typename Request>
  std::vector<const PackedLora*> LorasOf(absl::Span<const Request> requests) const;
  struct Group {  // requests that one decoder runs, by index
    Decoder* decoder;
    std::vector<size_t> requests;
  };
  template <typename Request>
  std::vector<Group> ByDecoder(absl::Span<const Request> requests) const;
  template <typename Request, typename Run>
  auto RunGroups(absl::Span<const Request> requests, const Run& run) const;

  EngineOptions options_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<PrefixStore> prefixes_;
  std::map<std::string, LoadedLora> loras_;
  Compute spent_;
};

}  // namespace evolora
