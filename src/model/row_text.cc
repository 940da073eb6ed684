#include "row_text.h"

#include <algorithm>
#include <utility>

namespace evolora {

RowText::RowText(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stop)
    : stop_(std::move(stop)) {
  if (tokenizer != nullptr) decoder_.emplace(std::move(tokenizer));
  for (const std::string& s : stop_) longest_stop_ = std::max(longest_stop_, s.size());
}

bool RowText::Push(TokenId id) {
  if (!decoder_.has_value()) return false;
  // An id beyond the tokenizer's vocabulary (a padded embedding) has no text.
  const absl::StatusOr<std::string> piece = decoder_->Push(id);
  const size_t before = text_.size();
  const bool is_stopped = Append(piece.ok() ? *piece : std::string());
  ends_.push_back(before + (piece.ok() ? piece->size() : 0));
  return is_stopped;
}

size_t RowText::NumIdsKept() const {
  return static_cast<size_t>(std::count_if(ends_.begin(), ends_.end(), [this](size_t end) {
    return !is_stopped_ || end <= text_.size();
  }));
}

// A stop string may begin in earlier text: looks back as far as one can reach.
bool RowText::Append(const std::string& piece) {
  if (is_stopped_ || piece.empty()) return is_stopped_;
  const size_t from = text_.size() - std::min(text_.size(), longest_stop_);
  text_ += piece;
  size_t first = std::string::npos;
  for (const std::string& s : stop_) first = std::min(first, text_.find(s, from));
  if (first == std::string::npos) return false;
  text_.resize(first);
  is_stopped_ = true;
  return true;
}

std::string RowText::Finish() {
  if (decoder_.has_value()) Append(decoder_->Finish());
  return text_;
}

}  // namespace evolora
