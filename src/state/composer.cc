#include "evolora/state/composer.h"

#include <algorithm>
#include <set>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/core/trigger.h"

namespace evolora {
namespace {

constexpr char kHintId[] = "hint";

// One item that may be put in: a paragraph of the system turn, earlier turns, or both.
struct Piece {
  std::string id;
  std::string system_text;
  std::vector<Message> turns;
  bool forced = false;
  bool accepted = false;
};

Piece ToPiece(const PromptLine& line) { return {absl::StrCat("prompt:", line.id), line.text, {}}; }

Piece ToPiece(const ToolNote& note) {
  return {absl::StrCat("tool:", note.tool), absl::StrCat("Tool ", note.tool, ": ", note.text), {}};
}

Piece ToPiece(const Skill& skill) {
  Piece piece{absl::StrCat("skill:", skill.name), skill.instructions, {}};
  if (!skill.example_request.empty()) {
    piece.turns = {{"user", skill.example_request}, {"assistant", skill.example_answer}};
  }
  return piece;
}

Piece ToPiece(const KnowledgeEntry& entry) {
  return {absl::StrCat("knowledge:", entry.key),
          entry.rule,
          {{"user", entry.question}, {"assistant", entry.answer}}};
}

bool IsWordCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || (c & 0x80) != 0;
}

bool NamesTool(absl::string_view text, absl::string_view tool) {
  for (size_t at = text.find(tool); at != absl::string_view::npos; at = text.find(tool, at + 1)) {
    const size_t end = at + tool.size();
    if ((at == 0 || !IsWordCharacter(text[at - 1])) &&
        (end == text.size() || !IsWordCharacter(text[end]))) {
      return true;
    }
  }
  return false;
}

// Index of the last user turn; messages.size() when there is none.
size_t LastUserTurn(absl::Span<const Message> messages) {
  for (size_t i = messages.size(); i-- > 0;) {
    if (messages[i].role == "user") return i;
  }
  return messages.size();
}

// Collects what applies to one request, forced items in front of the state's own of their kind.
class Collector {
 public:
  Collector(const StateIndex& index, absl::Span<const Message> messages,
            const ComposeOptions& options)
      : state_(index.state()),
        index_(index),
        messages_(messages),
        options_(options),
        request_text_(RequestText(messages)) {}

  absl::StatusOr<std::vector<Piece>> Collect() {
    AddForced(options_.forced.prompt);
    for (const PromptLine& line : state_.prompt) Add(ToPiece(line));
    AddForced(options_.forced.tool_notes);
    for (const auto& [tool, note] : state_.tool_notes) {
      if (NamesTool(request_text_, tool)) Add(ToPiece(note));
    }
    AddForced(options_.forced.skills);
    for (const auto& [name, skill] : state_.skills) {
      if (Matches(skill.trigger, request_text_)) Add(ToPiece(skill));
    }
    AddForced(options_.forced.knowledge);
    RETURN_IF_ERROR(AddRetrieved());
    if (!options_.forced.hint.empty()) {
      pieces_.push_back({kHintId, options_.forced.hint, {}, true, true});
    }
    return std::move(pieces_);
  }

 private:
  template <typename T>
  void AddForced(const std::vector<T>& items) {
    for (const T& item : items) {
      Piece piece = ToPiece(item);
      piece.forced = piece.accepted = true;
      forced_ids_.insert(piece.id);
      pieces_.push_back(std::move(piece));
    }
  }

  void Add(Piece piece) {
    if (forced_ids_.count(piece.id) != 0 || options_.disabled.count(piece.id) != 0) return;
    pieces_.push_back(std::move(piece));
  }

  absl::Status AddRetrieved() {
    const size_t question = LastUserTurn(messages_);
    if (question == messages_.size() || state_.knowledge.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::vector<RetrievalHit> hits,
                     index_.retriever().Query(messages_[question].content, options_.now_unix_ms,
                                              options_.retrieval));
    for (const RetrievalHit& hit : hits) {
      if (hit.relevant && hit.kind == "knowledge") Add(ToPiece(state_.knowledge.at(hit.key)));
    }
    return absl::OkStatus();
  }

  const ArtifactState& state_;
  const StateIndex& index_;
  absl::Span<const Message> messages_;
  const ComposeOptions& options_;
  std::string request_text_;
  std::set<std::string> forced_ids_;
  std::vector<Piece> pieces_;
};

bool IsKnowledge(const Piece& piece) { return absl::StartsWith(piece.id, "knowledge:"); }

std::vector<Message> Render(absl::Span<const Message> messages, const std::vector<Piece>& pieces) {
  std::string system_text;
  std::set<absl::string_view> said;
  std::vector<Message> examples;
  std::vector<Message> facts;
  for (const Piece& piece : pieces) {
    if (!piece.accepted) continue;
    if (!piece.system_text.empty() && said.insert(piece.system_text).second) {
      absl::StrAppend(&system_text, system_text.empty() ? "" : "\n\n", piece.system_text);
    }
    // Facts arrive best first and stand best last.
    std::vector<Message>& turns = IsKnowledge(piece) ? facts : examples;
    const auto at = IsKnowledge(piece) ? facts.begin() : examples.end();
    turns.insert(at, piece.turns.begin(), piece.turns.end());
  }
  std::vector<Message> out(messages.begin(), messages.end());
  const bool has_system = out.front().role == "system";
  const size_t user = LastUserTurn(messages);
  const size_t place = user < messages.size() ? user : (has_system ? 1 : 0);
  examples.insert(examples.end(), facts.begin(), facts.end());
  out.insert(out.begin() + static_cast<int64_t>(place), examples.begin(), examples.end());
  if (system_text.empty()) return out;
  if (has_system) {
    std::string& content = out.front().content;
    content = content.empty() ? system_text : absl::StrCat(content, "\n\n", system_text);
  } else {
    out.insert(out.begin(), {"system", system_text});
  }
  return out;
}

absl::StatusOr<int64_t> CountTokens(const ComposeOptions& options,
                                    absl::Span<const Message> messages) {
  if (options.count_tokens) return options.count_tokens(messages);
  int64_t num_bytes = 0;
  for (const Message& m : messages) num_bytes += static_cast<int64_t>(m.content.size());
  return (num_bytes + 3) / 4;
}

// Adds what a patch puts in; items of the patch itself are seen by later SetSkillTrigger.
class ForcedCollector {
 public:
  ForcedCollector(const ArtifactState& state, ForcedItems& out) : state_(state), out_(out) {}

  absl::Status operator()(const PutKnowledge& op) { return Keep(op.entry, out_.knowledge); }
  absl::Status operator()(const PutSkill& op) { return Keep(op.skill, out_.skills); }
  absl::Status operator()(const PutPromptLine& op) { return Keep(op.line, out_.prompt); }
  absl::Status operator()(const PutToolNote& op) { return Keep(op.note, out_.tool_notes); }
  absl::Status operator()(const SetSkillTrigger& op) {
    for (const Skill& skill : out_.skills) {
      if (skill.name == op.skill) return absl::OkStatus();
    }
    const auto it = state_.skills.find(op.skill);
    if (it == state_.skills.end()) {
      return absl::NotFoundError(absl::StrCat("no skill '", op.skill, "' to force"));
    }
    return Keep(it->second, out_.skills);
  }
  absl::Status operator()(const PutValidationCase&) { return absl::OkStatus(); }
  absl::Status operator()(const RemoveItem&) { return absl::OkStatus(); }

 private:
  // A later item with the same id replaces the earlier one, as in Apply.
  template <typename T>
  static absl::Status Keep(const T& item, std::vector<T>& items) {
    const std::string id = ToPiece(item).id;
    const auto same = std::find_if(items.begin(), items.end(),
                                   [&](const T& other) { return ToPiece(other).id == id; });
    if (same == items.end()) {
      items.push_back(item);
    } else {
      *same = item;
    }
    return absl::OkStatus();
  }

  const ArtifactState& state_;
  ForcedItems& out_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const StateIndex>> StateIndex::Build(ArtifactState state) {
  ASSIGN_OR_RETURN(std::unique_ptr<Retriever> retriever, Retriever::Build(state));
  return std::shared_ptr<const StateIndex>(new StateIndex(std::move(state), std::move(retriever)));
}

absl::StatusOr<ForcedItems> ForcedFromPatch(const ArtifactState& state, const Patch& patch) {
  ForcedItems out;
  ForcedCollector collector(state, out);
  for (const PatchOp& op : patch.ops) RETURN_IF_ERROR(std::visit(collector, op));
  return out;
}

std::vector<std::string> ItemIds(const ForcedItems& items) {
  std::vector<std::string> ids;
  const auto add = [&](const auto& some) {
    for (const auto& item : some) ids.push_back(ToPiece(item).id);
  };
  add(items.prompt);
  add(items.tool_notes);
  add(items.skills);
  add(items.knowledge);
  return ids;
}

absl::StatusOr<Composed> Compose(const StateIndex& index, absl::Span<const Message> messages,
                                 const ComposeOptions& options) {
  if (messages.empty()) return absl::InvalidArgumentError("a request without messages");
  ASSIGN_OR_RETURN(std::vector<Piece> pieces, Collector(index, messages, options).Collect());
  Composed out;
  if (pieces.empty()) {
    out.messages.assign(messages.begin(), messages.end());
    return out;
  }
  ASSIGN_OR_RETURN(const int64_t bare_tokens, CountTokens(options, messages));
  const auto measure = [&]() -> absl::Status {
    out.messages = Render(messages, pieces);
    ASSIGN_OR_RETURN(const int64_t tokens, CountTokens(options, out.messages));
    out.tokens_added = tokens - bare_tokens;
    return absl::OkStatus();
  };
  for (Piece& piece : pieces) {
    if (piece.forced) continue;
    piece.accepted = true;
    RETURN_IF_ERROR(measure());
    piece.accepted = out.tokens_added <= options.token_budget;
  }
  RETURN_IF_ERROR(measure());
  for (const Piece& piece : pieces) {
    (piece.accepted ? out.used : out.left_out).push_back(piece.id);
  }
  return out;
}

}  // namespace evolora
