#include "evolora/model/text_model.h"

#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "row_text.h"

namespace evolora {
namespace {

// The special ids that end a completion: end of text, and the chat's end of turn.
std::vector<TokenId> StopIds(const BaseModel& base) {
  std::vector<TokenId> ids;
  if (base.tokenizer == nullptr) return ids;
  if (base.tokenizer->eos_id() >= 0) ids.push_back(base.tokenizer->eos_id());
  if (base.chat_format.ok()) {
    const absl::StatusOr<TokenId> turn = EndOfTurnId(*base.tokenizer, *base.chat_format);
    if (turn.ok() && (ids.empty() || ids[0] != *turn)) ids.push_back(*turn);
  }
  return ids;
}

// Of a row whose text holds the first `num_kept` ids.
TextSample ToSample(EngineCompletion done, size_t num_kept, std::string text,
                    std::vector<TokenId> prompt) {
  TextSample sample{.completion = {.text = std::move(text),
                                   .ids = std::move(done.ids),
                                   .finish_reason = done.stopped ? "stop" : "length",
                                   .num_prompt_tokens = static_cast<int64_t>(prompt.size())},
                    .prompt_ids = std::move(prompt),
                    .logprobs = std::move(done.logprobs)};
  const bool is_whole = num_kept == sample.completion.ids.size();
  sample.completion.ids.resize(num_kept);
  sample.logprobs.resize(num_kept);
  sample.completion.sum_logprob =
      std::accumulate(sample.logprobs.begin(), sample.logprobs.end(), 0.0);
  sample.answer_ids = sample.completion.ids;
  if (is_whole && done.stop_id >= 0) {
    sample.answer_ids.push_back(done.stop_id);
    sample.logprobs.push_back(done.stop_logprob);
  }
  return sample;
}

}  // namespace

TextModel::TextModel(const BaseModel& base, std::unique_ptr<Engine> engine)
    : tokenizer_(base.tokenizer),
      chat_format_(base.chat_format),
      stop_ids_(StopIds(base)),
      engine_(std::move(engine)) {}

absl::StatusOr<std::unique_ptr<TextModel>> TextModel::Create(const BaseModel& base,
                                                             const EngineOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Engine::Create(base.weights, options));
  return std::unique_ptr<TextModel>(new TextModel(base, std::move(engine)));
}

absl::StatusOr<std::string> TextModel::LoadAdapter(const LoraAdapter& adapter) {
  return engine_->LoadAdapter(adapter);
}

absl::Status TextModel::UnloadAdapter(const std::string& digest) {
  return engine_->UnloadAdapter(digest);
}

absl::StatusOr<std::vector<TokenId>> TextModel::EncodeChat(
    absl::Span<const Message> messages) const {
  if (tokenizer_ == nullptr) {
    return absl::FailedPreconditionError("the base has no tokenizer: give ids");
  }
  if (!chat_format_.ok()) return chat_format_.status();
  return evolora::EncodeChat(*tokenizer_, *chat_format_, messages, /*add_generation_prompt=*/true);
}

absl::StatusOr<EngineRequest> TextModel::ToEngine(const GenerateRequest& request) const {
  EngineRequest row{.prompt = request.ids,
                    .adapter = request.adapter,
                    .max_new_tokens = request.max_new_tokens,
                    .sampling = request.sampling};
  if (!request.ignore_eos) row.stop_ids = stop_ids_;
  if (row.prompt.empty()) {
    ASSIGN_OR_RETURN(row.prompt, EncodeChat(request.messages));
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty()) return absl::InvalidArgumentError("empty stop string");
    if (tokenizer_ == nullptr) {
      return absl::InvalidArgumentError("a stop string, but the base has no tokenizer");
    }
  }
  return row;
}

absl::StatusOr<std::vector<Completion>> TextModel::Generate(
    absl::Span<const GenerateRequest> requests) {
  ASSIGN_OR_RETURN(std::vector<TextSample> samples, GenerateSamples(requests));
  std::vector<Completion> completions;
  for (TextSample& sample : samples) completions.push_back(std::move(sample.completion));
  return completions;
}

absl::StatusOr<std::vector<TextSample>> TextModel::GenerateSamples(
    absl::Span<const GenerateRequest> requests) {
  std::vector<EngineRequest> rows;
  std::vector<RowText> texts;
  texts.reserve(requests.size());  // rows keep pointers into it
  for (size_t i = 0; i < requests.size(); ++i) {
    absl::StatusOr<EngineRequest> row = ToEngine(requests[i]);
    if (!row.ok()) return Annotate(row.status(), absl::StrCat("row ", i));
    RowText* text = &texts.emplace_back(tokenizer_, requests[i].stop);
    row->on_token = [text](TokenId id) { return text->Push(id); };
    rows.push_back(*std::move(row));
  }
  ASSIGN_OR_RETURN(std::vector<EngineCompletion> done, engine_->Generate(rows));
  std::vector<TextSample> samples;
  for (size_t i = 0; i < done.size(); ++i) {
    std::string text = texts[i].Finish();
    const size_t num_kept = tokenizer_ != nullptr ? texts[i].NumIdsKept() : done[i].ids.size();
    samples.push_back(
        ToSample(std::move(done[i]), num_kept, std::move(text), std::move(rows[i].prompt)));
  }
  return samples;
}

absl::StatusOr<std::vector<Scored>> TextModel::Score(absl::Span<const ScoreRequest> requests) {
  return engine_->Score(requests);
}

Compute TextModel::spent() const { return engine_->spent(); }

const LlamaConfig& TextModel::config() const { return engine_->config(); }

}  // namespace evolora
