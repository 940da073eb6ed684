#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "evolora/core/language_model.h"

namespace evolora::testing {

// A LanguageModel that answers from a table: the first rule whose texts all occur in the rendered
// prompt ("role: content" lines joined by "\n") and whose adapter fits gives the answer; without
// one the answer is `default_answer`. A "token" is a word between blanks. Deterministic.
class FakeModel : public LanguageModel {
 public:
  struct Rule {
    std::vector<std::string> contains;  // all must occur in the prompt
    std::string answer;
    std::string adapter = "*";  // "*" = with any adapter or none, "" = bare base only
    // Chance of `answer`, else `default_answer`; drawn from prompt and sampling seed when the
    // request samples. A greedy request answers when the chance is at least 1/2.
    double probability = 1;
  };

  FakeModel& Answer(std::string contains, std::string answer, std::string adapter = "*");
  FakeModel& Add(Rule rule);

  absl::StatusOr<std::vector<Completion>> Generate(
      absl::Span<const GenerateRequest> requests) override;
  // Log-probability -1 for each id; logits are not supported (Unimplemented).
  absl::StatusOr<std::vector<Scored>> Score(absl::Span<const ScoreRequest> requests) override;
  // One id per word of the rendered prompt: a stable hash, never negative.
  absl::StatusOr<std::vector<TokenId>> EncodeChat(
      absl::Span<const Message> messages) const override;
  // Ten FLOPs a token, no seconds.
  Compute spent() const override { return spent_; }

  static std::string Render(absl::Span<const Message> messages);

  std::string default_answer = "I do not know.";
  // The call number (from 0) that returns Unavailable before doing anything; -1 = never.
  int64_t fail_at_call = -1;

  // What was asked: one entry per call of Generate, each with its rows.
  std::vector<std::vector<GenerateRequest>> calls;

 private:
  Completion Complete(const GenerateRequest& request);

  std::vector<Rule> rules_;
  Compute spent_;
};

}  // namespace evolora::testing
