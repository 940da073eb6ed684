#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace evolora {

// The SentencePiece library behind standard types. Its header re-declares absl::string_view, so
// this file and its .cc include no Abseil and no header that does. Immutable, thread-safe.
class SentencePieceBridge {
 public:
  // `model`: a serialised ModelProto whose structure has been checked. Null on failure, with
  // `error`.
  static std::unique_ptr<SentencePieceBridge> Create(std::string_view model, std::string* error);
  ~SentencePieceBridge();

  // Ids of `text`; for each the byte of `text` where it ends, at least 1, when `ends` is not null.
  // False on failure, with `error`. REQUIRES: `text` is valid UTF-8, not empty, under 2^31 bytes.
  bool Encode(std::string_view text, std::vector<int>* ids, std::vector<size_t>* ends,
              std::string* error) const;

 private:
  struct Processor;
  explicit SentencePieceBridge(std::unique_ptr<Processor> processor);
  std::unique_ptr<Processor> processor_;
};

}  // namespace evolora
