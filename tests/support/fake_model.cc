#include "support/fake_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "evolora/core/random.h"

namespace evolora::testing {
namespace {

std::vector<TokenId> WordIds(absl::string_view text) {
  std::vector<TokenId> ids;
  for (absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(" \n\t"), absl::SkipEmpty())) {
    ids.push_back(static_cast<TokenId>(DeriveSeed(1, word) % 50000));
  }
  return ids;
}

bool Fits(const FakeModel::Rule& rule, const std::string& prompt, const std::string& adapter) {
  if (rule.adapter != "*" && rule.adapter != adapter) return false;
  for (const std::string& text : rule.contains) {
    if (prompt.find(text) == std::string::npos) return false;
  }
  return true;
}

}  // namespace

FakeModel& FakeModel::Answer(std::string contains, std::string answer, std::string adapter) {
  return Add({{std::move(contains)}, std::move(answer), std::move(adapter)});
}

FakeModel& FakeModel::Add(Rule rule) {
  rules_.push_back(std::move(rule));
  return *this;
}

std::string FakeModel::Render(absl::Span<const Message> messages) {
  return absl::StrJoin(messages, "\n", [](std::string* out, const Message& m) {
    absl::StrAppend(out, m.role, ": ", m.content);
  });
}

Completion FakeModel::Complete(const GenerateRequest& request) {
  const std::string prompt = Render(request.messages);
  Completion out;
  out.text = default_answer;
  for (const Rule& rule : rules_) {
    if (!Fits(rule, prompt, request.adapter)) continue;
    const bool greedy = request.sampling.temperature == 0;
    Random random(DeriveSeed(request.sampling.seed, prompt));
    if (greedy ? rule.probability >= 0.5 : random.NextDouble() < rule.probability) {
      out.text = rule.answer;
    }
    break;
  }
  out.ids = WordIds(out.text);
  out.finish_reason = "stop";
  if (static_cast<int64_t>(out.ids.size()) > request.max_new_tokens) {
    std::vector<std::string> words = absl::StrSplit(out.text, ' ', absl::SkipEmpty());
    words.resize(static_cast<size_t>(request.max_new_tokens));
    out.ids.resize(static_cast<size_t>(request.max_new_tokens));
    out.text = absl::StrJoin(words, " ");
    out.finish_reason = "length";
  }
  out.num_prompt_tokens =
      static_cast<int64_t>(request.ids.empty() ? WordIds(prompt).size() : request.ids.size());
  out.sum_logprob = -static_cast<double>(out.ids.size());
  return out;
}

absl::StatusOr<std::vector<Completion>> FakeModel::Generate(
    absl::Span<const GenerateRequest> requests) {
  if (static_cast<int64_t>(calls.size()) == fail_at_call) {
    fail_at_call = -1;
    return absl::UnavailableError(absl::StrCat("fake model: call ", calls.size(), " fails"));
  }
  calls.emplace_back(requests.begin(), requests.end());
  std::vector<Completion> out;
  for (const GenerateRequest& request : requests) {
    if (request.messages.empty() && request.ids.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("row ", out.size(), ": empty prompt"));
    }
    out.push_back(Complete(request));
    const auto generated = static_cast<int64_t>(out.back().ids.size());
    spent_ += Compute{.prompt_tokens = out.back().num_prompt_tokens,
                      .generated_tokens = generated,
                      .flops = 10.0 * (out.back().num_prompt_tokens + generated)};
  }
  return out;
}

absl::StatusOr<std::vector<Scored>> FakeModel::Score(absl::Span<const ScoreRequest> requests) {
  std::vector<Scored> out;
  for (const ScoreRequest& request : requests) {
    if (request.ids.empty()) return absl::InvalidArgumentError("empty prompt");
    if (request.want_last_logits) return absl::UnimplementedError("fake model: no logits");
    out.push_back({.logprobs = std::vector<float>(request.ids.size() - 1, -1.0f)});
  }
  return out;
}

absl::StatusOr<std::vector<TokenId>> FakeModel::EncodeChat(
    absl::Span<const Message> messages) const {
  return WordIds(Render(messages));
}

}  // namespace evolora::testing
