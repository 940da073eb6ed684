#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/core/language_model.h"
#include "evolora/model/base_model.h"
#include "evolora/model/engine.h"

namespace evolora {

// A completion as a sample to learn from.
struct TextSample {
  Completion completion;
  std::vector<TokenId> prompt_ids;
  std::vector<TokenId> answer_ids;  // completion.ids, and the id that ended the row if one did
  std::vector<double> logprobs;     // natural log, of each of answer_ids at temperature 1
};

// The LanguageModel over a real base: engine, tokenizer and chat format together.
// Ends a completion at the end-of-turn id (chats), the end-of-text id, or a stop string; a stop
// string and what follows it are not part of the text, the ids that hold it are not part of the ids
// and of sum_logprob. Without a tokenizer requests carry ids and end by length only. Rows beyond
// EngineOptions::max_rows wait their turn; a row is the same in any batch (see Engine).
// Threads: one caller at a time, as Engine.
class TextModel : public LanguageModel {
 public:
  // Shares the base's weights and tokenizer. Errors: those of Engine::Create.
  static absl::StatusOr<std::unique_ptr<TextModel>> Create(const BaseModel& base,
                                                           const EngineOptions& options = {});

  // Loads an adapter and returns its digest, under which requests name it. Loading it again is OK.
  // InvalidArgument: it does not fit the base; names the module.
  absl::StatusOr<std::string> LoadAdapter(const LoraAdapter& adapter);
  absl::Status UnloadAdapter(const std::string& digest);

  // Errors: as Engine; the row is named. FailedPrecondition: messages without a tokenizer or a chat
  // format. InvalidArgument: an empty stop string, or a stop string without a tokenizer.
  absl::StatusOr<std::vector<Completion>> Generate(
      absl::Span<const GenerateRequest> requests) override;
  // The same with the ids and their log-probabilities.
  absl::StatusOr<std::vector<TextSample>> GenerateSamples(
      absl::Span<const GenerateRequest> requests);
  absl::StatusOr<std::vector<Scored>> Score(absl::Span<const ScoreRequest> requests) override;
  absl::StatusOr<std::vector<TokenId>> EncodeChat(
      absl::Span<const Message> messages) const override;
  Compute spent() const override;

  const LlamaConfig& config() const;

 private:
  TextModel(const BaseModel& base, std::unique_ptr<Engine> engine);
  absl::StatusOr<EngineRequest> ToEngine(const GenerateRequest& request) const;

  std::shared_ptr<const Tokenizer> tokenizer_;  // null: ids only
  absl::StatusOr<ChatFormat> chat_format_;
  std::vector<TokenId> stop_ids_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace evolora
