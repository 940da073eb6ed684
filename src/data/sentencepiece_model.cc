#include "sentencepiece_model.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "protobuf_wire.h"

namespace evolora {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr uint32_t kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3;
constexpr uint32_t kPieceText = 1, kPieceScore = 2, kPieceType = 3;
constexpr uint32_t kModelType = 3, kSuffix = 24, kByteFallback = 35, kUnkSurface = 44;
constexpr uint32_t kUnkPiece = 45, kBosPiece = 46, kEosPiece = 47;
constexpr uint32_t kCharsmap = 2, kAddDummyPrefix = 3, kRemoveExtraWhitespaces = 4,
                   kEscapeWhitespaces = 5;
constexpr uint64_t kUnigram = 1, kBpe = 2;

// What the trainer spec says about special pieces.
struct PieceNames {
  std::string bos = "<s>";
  std::string eos = "</s>";
};

absl::Status WrongType(const WireField& field, absl::string_view name) {
  return absl::InvalidArgumentError(
      absl::StrCat("protobuf at byte ", field.offset, ": ", name, " has wire type ", field.type));
}

absl::Status ReadBool(const WireField& field, absl::string_view name, bool& value) {
  if (field.type != 0) return WrongType(field, name);
  value = field.value != 0;
  return absl::OkStatus();
}

absl::Status ReadText(const WireField& field, absl::string_view name, std::string& value) {
  if (field.type != 2) return WrongType(field, name);
  value = std::string(field.bytes);
  return absl::OkStatus();
}

absl::Status ReadPiece(const WireField& message, TokenizerSpec& spec) {
  std::string text;
  float score = 0;
  uint64_t type = 1;
  WireReader reader(message.bytes, message.offset);
  while (!reader.AtEnd()) {
    ASSIGN_OR_RETURN(const WireField field, reader.Next());
    if (field.number == kPieceText) {
      RETURN_IF_ERROR(ReadText(field, "piece", text));
    } else if (field.number == kPieceScore) {
      if (field.type != 5) return WrongType(field, "score");
      const uint32_t bits = static_cast<uint32_t>(field.value);
      std::memcpy(&score, &bits, sizeof(score));
    } else if (field.number == kPieceType) {
      if (field.type != 0) return WrongType(field, "type");
      type = field.value;
    }
  }
  if (type < 1 || type > 6) {
    return absl::InvalidArgumentError(absl::StrCat("piece ", spec.tokens.size(), ": type ", type));
  }
  spec.tokens.push_back(std::move(text));
  spec.scores.push_back(score);
  spec.types.push_back(static_cast<TokenType>(type));
  return absl::OkStatus();
}

absl::Status ReadModelType(const WireField& field, TokenizerSpec& spec) {
  if (field.type != 0) return WrongType(field, "model_type");
  if (field.value != kUnigram && field.value != kBpe) {
    return absl::UnimplementedError(
        absl::StrCat("SentencePiece model_type ", field.value, "; unigram (1) and bpe (2) are"));
  }
  spec.kind =
      field.value == kBpe ? TokenizerKind::kSentencePieceBpe : TokenizerKind::kSentencePieceUnigram;
  return absl::OkStatus();
}

absl::Status ReadTrainerSpec(const WireField& message, TokenizerSpec& spec, PieceNames& names) {
  WireReader reader(message.bytes, message.offset);
  while (!reader.AtEnd()) {
    ASSIGN_OR_RETURN(const WireField field, reader.Next());
    bool is_suffix = false;
    switch (field.number) {
      case kModelType:
        RETURN_IF_ERROR(ReadModelType(field, spec));
        break;
      case kSuffix:
        RETURN_IF_ERROR(ReadBool(field, "treat_whitespace_as_suffix", is_suffix));
        if (is_suffix) return absl::UnimplementedError("treat_whitespace_as_suffix");
        break;
      case kByteFallback:
        RETURN_IF_ERROR(ReadBool(field, "byte_fallback", spec.byte_fallback));
        break;
      case kUnkSurface:
        RETURN_IF_ERROR(ReadText(field, "unk_surface", spec.unk_surface));
        break;
      case kBosPiece:
        RETURN_IF_ERROR(ReadText(field, "bos_piece", names.bos));
        break;
      case kEosPiece:
        RETURN_IF_ERROR(ReadText(field, "eos_piece", names.eos));
        break;
      default:  // how it was trained
        break;
    }
  }
  return absl::OkStatus();
}

absl::Status ReadNormalizerSpec(const WireField& message, TokenizerSpec& spec) {
  WireReader reader(message.bytes, message.offset);
  while (!reader.AtEnd()) {
    ASSIGN_OR_RETURN(const WireField field, reader.Next());
    if (field.number == kCharsmap) {
      RETURN_IF_ERROR(ReadText(field, "precompiled_charsmap", spec.precompiled_charsmap));
    } else if (field.number == kAddDummyPrefix) {
      RETURN_IF_ERROR(ReadBool(field, "add_dummy_prefix", spec.add_dummy_prefix));
    } else if (field.number == kRemoveExtraWhitespaces) {
      RETURN_IF_ERROR(ReadBool(field, "remove_extra_whitespaces", spec.remove_extra_whitespaces));
    } else if (field.number == kEscapeWhitespaces) {
      RETURN_IF_ERROR(ReadBool(field, "escape_whitespaces", spec.escape_whitespaces));
    }
  }
  return absl::OkStatus();
}

void FindSpecialIds(const PieceNames& names, TokenizerSpec& spec) {
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const TokenId id = static_cast<TokenId>(i);
    if (spec.types[i] == TokenType::kUnknown) spec.unk_id = id;
    if (spec.types[i] != TokenType::kControl) continue;
    if (spec.tokens[i] == names.bos) spec.bos_id = id;
    if (spec.tokens[i] == names.eos) spec.eos_id = id;
  }
  spec.adds_bos = spec.bos_id >= 0;
}

// The double array of Darts-clone: a unit's offset leads to its children, each found by its label.
struct DartsUnit {
  uint32_t bits;
  bool has_leaf() const { return ((bits >> 8) & 1) != 0; }
  uint32_t value() const { return bits & 0x7FFFFFFFu; }
  uint32_t label() const { return bits & 0x800000FFu; }
  uint32_t offset() const { return (bits >> 10) << ((bits & (1u << 9)) >> 6); }
};

absl::Status CheckDarts(const std::vector<DartsUnit>& units, size_t num_text_bytes) {
  std::vector<uint32_t> open = {0};
  std::vector<uint8_t> seen(units.size(), 0);
  seen[0] = 1;
  while (!open.empty()) {
    const uint32_t at = open.back();
    open.pop_back();
    const uint32_t base = at ^ units[at].offset();
    // The lookup reads the unit of any byte before it compares the label.
    if ((base | 0xFFu) >= units.size()) {
      return absl::InvalidArgumentError(absl::StrCat("precompiled_charsmap: unit ", at,
                                                     " leads to ", base, " of ", units.size()));
    }
    if (units[at].has_leaf() && units[base].value() >= num_text_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "precompiled_charsmap: value ", units[base].value(), " of ", num_text_bytes, " bytes"));
    }
    for (uint32_t byte = 1; byte < 256; ++byte) {
      const uint32_t child = base ^ byte;
      if (seen[child] != 0 || units[child].label() != byte) continue;
      seen[child] = 1;
      open.push_back(child);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCharsmap(absl::string_view charsmap) {
  if (charsmap.empty()) return absl::OkStatus();
  const auto u32 = [charsmap](size_t at) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) {
      value |= static_cast<uint32_t>(static_cast<uint8_t>(charsmap[at + i])) << (8 * i);
    }
    return value;
  };
  const uint32_t trie_bytes = charsmap.size() >= 4 ? u32(0) : 0;
  if (trie_bytes < 1024 || trie_bytes % 1024 != 0 || trie_bytes >= charsmap.size() - 4) {
    return absl::InvalidArgumentError(absl::StrCat("precompiled_charsmap: a trie of ", trie_bytes,
                                                   " bytes in ", charsmap.size()));
  }
  if (charsmap.back() != '\0') {
    return absl::InvalidArgumentError("precompiled_charsmap does not end with NUL");
  }
  std::vector<DartsUnit> units(trie_bytes / 4);
  for (size_t i = 0; i < units.size(); ++i) units[i].bits = u32(4 + 4 * i);
  return CheckDarts(units, charsmap.size() - 4 - trie_bytes);
}

absl::StatusOr<TokenizerSpec> TokenizerSpecFromSentencePiece(absl::string_view model) {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kSentencePieceUnigram;  // the proto's default
  spec.remove_extra_whitespaces = true;              // likewise
  PieceNames names;
  WireReader reader(model);
  while (!reader.AtEnd()) {
    ASSIGN_OR_RETURN(const WireField field, reader.Next());
    if (field.number > kNormalizerSpec) continue;  // self tests, denormaliser
    if (field.type != 2) return WrongType(field, "a message");
    if (field.number == kPieces) {
      RETURN_IF_ERROR(ReadPiece(field, spec));
    } else if (field.number == kTrainerSpec) {
      RETURN_IF_ERROR(ReadTrainerSpec(field, spec, names));
    } else {
      RETURN_IF_ERROR(ReadNormalizerSpec(field, spec));
    }
  }
  if (spec.tokens.empty())
    return absl::InvalidArgumentError("a SentencePiece model without pieces");
  FindSpecialIds(names, spec);
  return spec;
}

std::string SerialiseSentencePieceModel(const TokenizerSpec& spec) {
  std::string model;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    std::string piece;
    WriteBytesField(kPieceText, spec.tokens[i], piece);
    WriteFloatField(kPieceScore, spec.scores[i], piece);
    WriteVarintField(kPieceType, static_cast<uint64_t>(spec.types[i]), piece);
    WriteBytesField(kPieces, piece, model);
  }
  std::string trainer;
  WriteVarintField(kModelType, spec.kind == TokenizerKind::kSentencePieceBpe ? kBpe : kUnigram,
                   trainer);
  WriteVarintField(kByteFallback, spec.byte_fallback ? 1 : 0, trainer);
  if (spec.unk_id >= 0) {
    WriteBytesField(kUnkPiece, spec.tokens[static_cast<size_t>(spec.unk_id)], trainer);
  }
  WriteBytesField(kTrainerSpec, trainer, model);
  std::string normalizer;
  WriteBytesField(kCharsmap, spec.precompiled_charsmap, normalizer);
  WriteVarintField(kAddDummyPrefix, spec.add_dummy_prefix ? 1 : 0, normalizer);
  WriteVarintField(kRemoveExtraWhitespaces, spec.remove_extra_whitespaces ? 1 : 0, normalizer);
  WriteVarintField(kEscapeWhitespaces, spec.escape_whitespaces ? 1 : 0, normalizer);
  WriteBytesField(kNormalizerSpec, normalizer, model);
  return model;
}

}  // namespace evolora
