#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "evolora/core/tokenizer.h"
#include "evolora/data/stream_decoder.h"

namespace evolora {

// The text of one row while it grows, watched for stop strings. Not thread-safe.
class RowText {
 public:
  // A null tokenizer gives no text. Stop strings are not empty.
  RowText(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stop);

  // Adds what `id` completes; true when a stop string has appeared (the text then ends before it).
  bool Push(TokenId id);
  // How many of the pushed ids have their text wholly in front of the stop string (all, without
  // one).
  size_t NumIdsKept() const;
  // The whole text; a character cut at the end becomes U+FFFD. Call once, after the last Push.
  std::string Finish();

 private:
  bool Append(const std::string& piece);

  std::optional<StreamDecoder> decoder_;
  std::vector<std::string> stop_;
  size_t longest_stop_ = 0;
  std::string text_;
  std::vector<size_t> ends_;  // length of the text after each id
  bool is_stopped_ = false;
};

}  // namespace evolora
