#include "sentencepiece_bridge.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace evolora {

struct SentencePieceBridge::Processor {
  sentencepiece::SentencePieceProcessor library;
};

SentencePieceBridge::SentencePieceBridge(std::unique_ptr<Processor> processor)
    : processor_(std::move(processor)) {}
SentencePieceBridge::~SentencePieceBridge() = default;

std::unique_ptr<SentencePieceBridge> SentencePieceBridge::Create(std::string_view model,
                                                                 std::string* error) {
  auto processor = std::make_unique<Processor>();
  try {
    const auto status = processor->library.LoadFromSerializedProto(model);
    if (!status.ok()) {
      *error = status.ToString();
      return nullptr;
    }
  } catch (const std::exception& e) {
    *error = e.what();
    return nullptr;
  }
  return std::unique_ptr<SentencePieceBridge>(new SentencePieceBridge(std::move(processor)));
}

bool SentencePieceBridge::Encode(std::string_view text, std::vector<int>* ids,
                                 std::vector<size_t>* ends, std::string* error) const {
  try {
    if (ends == nullptr) {
      const auto status = processor_->library.Encode(text, ids);
      if (!status.ok()) *error = status.ToString();
      return status.ok();
    }
    sentencepiece::ImmutableSentencePieceText pieces;
    const auto status = processor_->library.Encode(text, pieces.mutable_proto());
    if (!status.ok()) {
      *error = status.ToString();
      return false;
    }
    for (size_t i = 0; i < pieces.pieces_size(); ++i) {
      const auto piece = pieces.pieces(static_cast<int>(i));
      // A dummy prefix, or a byte inside a character, covers nothing: it belongs to what follows.
      const size_t end = piece.end() > piece.begin() ? piece.end() : piece.end() + size_t{1};
      ids->push_back(static_cast<int>(piece.id()));
      ends->push_back(std::min(end, text.size()));
    }
    return true;
  } catch (const std::exception& e) {
    *error = e.what();
    return false;
  }
}

}  // namespace evolora
