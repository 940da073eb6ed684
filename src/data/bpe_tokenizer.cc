#include "bpe_tokenizer.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "added_tokens.h"
#include "bpe_model.h"
#include "byte_letters.h"
#include "evolora/core/status_macros.h"
#include "mapped_text.h"
#include "regex_splitter.h"
#include "table_tokenizer.h"

namespace evolora {
namespace {

constexpr char kMark[] = "\xE2\x96\x81";  // U+2581

// Added tokens are cut out in two passes, before and after normalisation; what is left is marked,
// split by the regexes one after another, and each piece goes through the merges.
class BpeTokenizer final : public TableTokenizer {
 public:
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Create(const TokenizerSpec& spec);

  absl::StatusOr<EncodedRuns> EncodeRuns(absl::Span<const TextRun> runs) const override;

 private:
  // One Encode call.
  struct Call {
    const JoinedRuns& input;
    EncodedRuns encoded;
    std::vector<BpeModel::Symbol> symbols;
    std::vector<absl::string_view> pieces, next_pieces;

    void Add(TokenId id, size_t input_end) {
      encoded.ids.push_back(id);
      encoded.run_of_id.push_back(input.RunOfEnd(input_end));
    }
  };

  BpeTokenizer(BpeModel model, TokenTable table, std::vector<AddedToken> raw,
               std::vector<AddedToken> normalized)
      : TableTokenizer(std::move(table)),
        model_(std::move(model)),
        raw_tokens_(std::move(raw)),
        normalized_tokens_(std::move(normalized)) {}

  absl::Status EncodeRaw(absl::string_view text, size_t begin, Call& call) const;
  absl::Status EncodePlain(const MappedText& text, bool is_first, Call& call) const;

  BpeModel model_;
  AddedTokenMatcher raw_tokens_;
  AddedTokenMatcher normalized_tokens_;
  std::vector<RegexSplitter> splitters_;
  bool nfc_ = false;
  SpaceMark space_mark_ = SpaceMark::kNone;
};

std::string TokenText(const TokenizerSpec& spec, const std::string& token) {
  if (spec.kind == TokenizerKind::kByteLevelBpe) return LettersToBytes(token);
  const std::optional<uint8_t> byte = spec.byte_fallback ? ByteOfToken(token) : std::nullopt;
  if (byte.has_value()) return std::string(1, static_cast<char>(*byte));
  if (spec.space_mark == SpaceMark::kNone) return token;
  return absl::StrReplaceAll(token, {{kMark, " "}});
}

TokenTable MakeTable(const TokenizerSpec& spec) {
  TokenTable table(spec.tokens.size());
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const bool starts_word =
        spec.space_mark != SpaceMark::kNone && absl::StartsWith(spec.tokens[i], kMark);
    table.SetBytes(static_cast<TokenId>(i), TokenText(spec, spec.tokens[i]), starts_word);
  }
  for (const AddedToken& token : spec.added_tokens) {
    table.SetBytes(token.id, token.text);
    if (token.is_special) table.SetSpecial(token.id, token.text);
  }
  return table;
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> BpeTokenizer::Create(const TokenizerSpec& spec) {
  ASSIGN_OR_RETURN(BpeModel model, BpeModel::Create(spec));
  std::vector<AddedToken> raw, normalized;
  for (const AddedToken& token : spec.added_tokens) {
    if (!token.is_normalized) {
      raw.push_back(token);
      continue;
    }
    normalized.push_back(token);
    if (!spec.nfc) continue;
    ASSIGN_OR_RETURN(normalized.back().text, ToNfc(absl::string_view(token.text)));
  }
  std::shared_ptr<BpeTokenizer> tokenizer(
      new BpeTokenizer(std::move(model), MakeTable(spec), std::move(raw), std::move(normalized)));
  for (size_t i = 0; i < spec.split_patterns.size(); ++i) {
    absl::StatusOr<RegexSplitter> splitter = RegexSplitter::Create(spec.split_patterns[i]);
    if (!splitter.ok()) {
      return Annotate(splitter.status(), absl::StrCat("split_patterns[", i, "]"));
    }
    tokenizer->splitters_.push_back(*std::move(splitter));
  }
  tokenizer->nfc_ = spec.nfc;
  if (spec.kind == TokenizerKind::kCharacterBpe) {
    tokenizer->space_mark_ = spec.space_mark;
    tokenizer->strip_ = spec.add_dummy_prefix ? StripBlanks::kFirstToken : StripBlanks::kNone;
  }
  tokenizer->bos_id_ = spec.bos_id;
  tokenizer->eos_id_ = spec.eos_id;
  tokenizer->adds_bos_ = spec.adds_bos;
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

absl::StatusOr<EncodedRuns> BpeTokenizer::EncodeRuns(absl::Span<const TextRun> runs) const {
  ASSIGN_OR_RETURN(const JoinedRuns input, JoinedRuns::Create(runs));
  Call call{.input = input};
  const auto allow = [&input](const AddedToken& token, size_t begin, size_t end) {
    return !token.is_special || input.AllowsSpecial(begin, end);
  };
  for (const AddedTokenMatcher::Part& part : raw_tokens_.Split(input.text(), allow)) {
    if (part.token != nullptr) {
      call.Add(part.token->id, part.end);
      continue;
    }
    const absl::string_view text =
        absl::string_view(input.text()).substr(part.begin, part.end - part.begin);
    RETURN_IF_ERROR(EncodeRaw(text, part.begin, call));
  }
  return std::move(call.encoded);
}

// `text` stands at `begin` of the input and holds no raw added token.
absl::Status BpeTokenizer::EncodeRaw(absl::string_view text, size_t begin, Call& call) const {
  MappedText mapped(text, begin);
  if (nfc_) {
    ASSIGN_OR_RETURN(mapped, ToNfc(std::move(mapped)));
  }
  if (space_mark_ == SpaceMark::kPrependPiece) mapped = MarkSpaces(mapped, space_mark_, false);
  const auto allow = [&](const AddedToken& token, size_t from, size_t to) {
    if (!token.is_special) return true;
    const size_t input_begin = from == 0 ? begin : mapped.InputEnd(from);
    return call.input.AllowsSpecial(input_begin, mapped.InputEnd(to));
  };
  for (const AddedTokenMatcher::Part& part : normalized_tokens_.Split(mapped.text(), allow)) {
    if (part.token != nullptr) {
      call.Add(part.token->id, mapped.InputEnd(part.end));
      continue;
    }
    const bool is_all = part.begin == 0 && part.end == mapped.text().size();
    const bool is_first = begin == 0 && part.begin == 0;
    RETURN_IF_ERROR(EncodePlain(is_all ? mapped : mapped.Slice(part.begin, part.end - part.begin),
                                is_first, call));
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::EncodePlain(const MappedText& text, bool is_first, Call& call) const {
  const bool is_metaspace =
      space_mark_ != SpaceMark::kNone && space_mark_ != SpaceMark::kPrependPiece;
  const MappedText mapped = is_metaspace ? MarkSpaces(text, space_mark_, is_first) : text;
  call.pieces.assign(1, mapped.text());
  for (const RegexSplitter& splitter : splitters_) {
    call.next_pieces.clear();
    for (const absl::string_view piece : call.pieces) {
      RETURN_IF_ERROR(splitter.Split(piece, call.next_pieces));
    }
    call.pieces.swap(call.next_pieces);
  }
  for (const absl::string_view piece : call.pieces) {
    call.symbols.clear();
    model_.Encode(piece, call.symbols);
    const size_t offset = static_cast<size_t>(piece.data() - mapped.text().data());
    for (const BpeModel::Symbol& symbol : call.symbols) {
      call.Add(symbol.id, mapped.InputEnd(offset + symbol.end));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> MakeBpeTokenizer(const TokenizerSpec& spec) {
  return BpeTokenizer::Create(spec);
}

}  // namespace evolora
