#include "sentencepiece_tokenizer.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "added_tokens.h"
#include "byte_letters.h"
#include "evolora/core/status_macros.h"
#include "sentencepiece_bridge.h"
#include "sentencepiece_model.h"
#include "table_tokenizer.h"

namespace evolora {
namespace {

constexpr char kMark[] = "\xE2\x96\x81";  // U+2581

// Control pieces are cut out where they may count; the library encodes each text between them, with
// a dummy prefix each, as Llama's reference code does.
class SentencePieceTokenizer final : public TableTokenizer {
 public:
  SentencePieceTokenizer(const TokenizerSpec& spec, std::unique_ptr<SentencePieceBridge> bridge,
                         TokenTable table, std::vector<AddedToken> control)
      : TableTokenizer(std::move(table)), bridge_(std::move(bridge)), control_(std::move(control)) {
    strip_ = spec.remove_extra_whitespaces ? StripBlanks::kWhileEmpty
             : spec.add_dummy_prefix       ? StripBlanks::kFirstToken
                                           : StripBlanks::kNone;
    bos_id_ = spec.bos_id;
    eos_id_ = spec.eos_id;
    adds_bos_ = spec.adds_bos;
  }

  absl::StatusOr<EncodedRuns> EncodeRuns(absl::Span<const TextRun> runs) const override;

 private:
  absl::Status EncodePart(const JoinedRuns& input, size_t begin, size_t end,
                          EncodedRuns& encoded) const;

  std::unique_ptr<SentencePieceBridge> bridge_;
  AddedTokenMatcher control_;
};

absl::StatusOr<EncodedRuns> SentencePieceTokenizer::EncodeRuns(
    absl::Span<const TextRun> runs) const {
  ASSIGN_OR_RETURN(const JoinedRuns input, JoinedRuns::Create(runs));
  EncodedRuns encoded;
  const auto allow = [&input](const AddedToken&, size_t begin, size_t end) {
    return input.AllowsSpecial(begin, end);
  };
  for (const AddedTokenMatcher::Part& part : control_.Split(input.text(), allow)) {
    if (part.token == nullptr) {
      RETURN_IF_ERROR(EncodePart(input, part.begin, part.end, encoded));
      continue;
    }
    encoded.ids.push_back(part.token->id);
    encoded.run_of_id.push_back(input.RunOfEnd(part.end));
  }
  return encoded;
}

absl::Status SentencePieceTokenizer::EncodePart(const JoinedRuns& input, size_t begin, size_t end,
                                                EncodedRuns& encoded) const {
  const std::string_view text = std::string_view(input.text()).substr(begin, end - begin);
  const int32_t last_run = input.RunOfEnd(end);
  const bool is_one_run = input.RunOfEnd(begin + 1) == last_run;
  std::vector<int> ids;
  std::vector<size_t> ends;
  std::string error;
  if (!bridge_->Encode(text, &ids, is_one_run ? nullptr : &ends, &error)) {
    return absl::DataLossError(
        absl::StrCat("the SentencePiece model cannot encode its text: ", error));
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    encoded.ids.push_back(ids[i]);
    encoded.run_of_id.push_back(is_one_run ? last_run : input.RunOfEnd(begin + ends[i]));
  }
  return absl::OkStatus();
}

TokenTable MakeTable(const TokenizerSpec& spec) {
  TokenTable table(spec.tokens.size());
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const TokenId id = static_cast<TokenId>(i);
    const std::optional<uint8_t> byte = ByteOfToken(spec.tokens[i]);
    if (spec.types[i] == TokenType::kControl) {
      table.SetSpecial(id, spec.tokens[i]);
    } else if (spec.types[i] == TokenType::kUnknown) {
      table.SetBytes(id, spec.unk_surface);
    } else if (spec.types[i] == TokenType::kByte && byte.has_value()) {
      table.SetBytes(id, std::string(1, static_cast<char>(*byte)));
    } else {
      table.SetBytes(id, absl::StrReplaceAll(spec.tokens[i], {{kMark, " "}}),
                     absl::StartsWith(spec.tokens[i], kMark));
    }
  }
  return table;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> MakeSentencePieceTokenizer(
    const TokenizerSpec& spec) {
  RETURN_IF_ERROR(CheckCharsmap(spec.precompiled_charsmap));
  const std::string model = SerialiseSentencePieceModel(spec);
  std::string error;
  std::unique_ptr<SentencePieceBridge> bridge = SentencePieceBridge::Create(model, &error);
  if (bridge == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("SentencePiece refuses the model: ", error));
  }
  std::vector<AddedToken> control;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.types[i] != TokenType::kControl) continue;
    control.push_back({.id = static_cast<TokenId>(i), .text = spec.tokens[i]});
  }
  return std::shared_ptr<const Tokenizer>(std::make_shared<SentencePieceTokenizer>(
      spec, std::move(bridge), MakeTable(spec), std::move(control)));
}

}  // namespace evolora
