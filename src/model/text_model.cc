#include "evolora/model/text_model.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/stream_decoder.h"

namespace evolora {
namespace {

// Follows one row's text while it grows and ends it at a stop string.
class StopWatch {
 public:
  StopWatch(std::shared_ptr<const Tokenizer> tokenizer, const std::vector<std::string>& stops)
      : decoder_(std::move(tokenizer)), stops_(stops) {}

  // Takes the next id; true when a stop string is complete.
  bool Push(TokenId id) {
    absl::StatusOr<std::string> piece = decoder_.Push(id);
    if (!piece.ok()) return false;  // the engine gives ids of the vocabulary only
    const size_t before = text_.size();
    text_ += *piece;
    ends_.push_back(text_.size());
    for (const std::string& stop : stops_) {
      const size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
      const size_t at = text_.find(stop, from);
      if (at != std::string::npos) cut_ = std::min(cut_, at);
    }
    return cut_ != std::string::npos;
  }

  bool stopped() const { return cut_ != std::string::npos; }
  std::string Text() { return stopped() ? text_.substr(0, cut_) : text_ + decoder_.Finish(); }
  // Ids whose text lies wholly in front of the stop string.
  size_t NumIdsKept() const {
    if (!stopped()) return ends_.size();
    return static_cast<size_t>(
        std::count_if(ends_.begin(), ends_.end(), [this](size_t end) { return end <= cut_; }));
  }

 private:
  StreamDecoder decoder_;
  const std::vector<std::string>& stops_;
  std::string text_;
  std::vector<size_t> ends_;  // length of the text after each id
  size_t cut_ = std::string::npos;
};

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

absl::StatusOr<std::vector<Completion>> TextModel::Generate(
    absl::Span<const GenerateRequest> requests) {
  std::vector<EngineRequest> rows(requests.size());
  std::vector<std::optional<StopWatch>> watches(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const GenerateRequest& request = requests[i];
    EngineRequest& row = rows[i];
    row.prompt = request.ids;
    if (row.prompt.empty()) {
      absl::StatusOr<std::vector<TokenId>> ids = EncodeChat(request.messages);
      if (!ids.ok()) return Annotate(ids.status(), absl::StrCat("row ", i));
      row.prompt = *std::move(ids);
    }
    row.adapter = request.adapter;
    row.max_new_tokens = request.max_new_tokens;
    row.sampling = request.sampling;
    row.stop_ids = stop_ids_;
    if (tokenizer_ == nullptr) continue;
    watches[i].emplace(tokenizer_, request.stop);
    row.on_token = [watch = &*watches[i]](TokenId id) { return watch->Push(id); };
  }
  ASSIGN_OR_RETURN(std::vector<EngineCompletion> done, engine_->Generate(rows));
  std::vector<Completion> completions(done.size());
  for (size_t i = 0; i < done.size(); ++i) {
    Completion& completion = completions[i];
    completion.ids = std::move(done[i].ids);
    completion.finish_reason = done[i].stopped ? "stop" : "length";
    completion.num_prompt_tokens = static_cast<int64_t>(rows[i].prompt.size());
    completion.sum_logprob = done[i].sum_logprob;
    if (!watches[i].has_value()) continue;
    completion.ids.resize(std::min(completion.ids.size(), watches[i]->NumIdsKept()));
    completion.text = watches[i]->Text();
  }
  return completions;
}

absl::StatusOr<std::vector<Scored>> TextModel::Score(absl::Span<const ScoreRequest> requests) {
  return engine_->Score(requests);
}

Compute TextModel::spent() const { return engine_->spent(); }

const LlamaConfig& TextModel::config() const { return engine_->config(); }

}  // namespace evolora
