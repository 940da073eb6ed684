#include "mapped_text.h"

#include <unicode/bytestream.h>
#include <unicode/edits.h>
#include <unicode/normalizer2.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr char kMark[] = "\xE2\x96\x81";  // U+2581

icu::StringPiece Piece(absl::string_view text) {
  return icu::StringPiece(text.data(), static_cast<int32_t>(text.size()));
}

absl::Status IcuError(UErrorCode code) {
  return absl::InternalError(absl::StrCat("NFC: ", u_errorName(code)));
}

absl::StatusOr<const icu::Normalizer2*> Nfc() {
  UErrorCode code = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(code);
  if (U_FAILURE(code)) return IcuError(code);
  return nfc;
}

absl::StatusOr<bool> IsNfc(const icu::Normalizer2& nfc, absl::string_view text) {
  UErrorCode code = U_ZERO_ERROR;
  const bool is_nfc = nfc.isNormalizedUTF8(Piece(text), code);
  if (U_FAILURE(code)) return IcuError(code);
  return is_nfc;
}

absl::StatusOr<std::string> Normalise(const icu::Normalizer2& nfc, absl::string_view text,
                                      icu::Edits* edits) {
  std::string out;
  icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text.size()));
  UErrorCode code = U_ZERO_ERROR;
  nfc.normalizeUTF8(0, Piece(text), sink, edits, code);
  if (U_FAILURE(code)) return IcuError(code);
  return out;
}

}  // namespace

MappedText MappedText::Slice(size_t begin, size_t size) const {
  if (is_identity_) return MappedText(absl::string_view(text_).substr(begin, size), begin_ + begin);
  return MappedText(text_.substr(begin, size),
                    std::vector<uint32_t>(ends_.begin() + static_cast<ptrdiff_t>(begin),
                                          ends_.begin() + static_cast<ptrdiff_t>(begin + size)));
}

absl::StatusOr<std::string> ToNfc(absl::string_view text) {
  ASSIGN_OR_RETURN(const icu::Normalizer2* nfc, Nfc());
  return Normalise(*nfc, text, nullptr);
}

absl::StatusOr<MappedText> ToNfc(MappedText text) {
  ASSIGN_OR_RETURN(const icu::Normalizer2* nfc, Nfc());
  ASSIGN_OR_RETURN(const bool is_nfc, IsNfc(*nfc, text.text()));
  if (is_nfc) return text;
  icu::Edits edits;
  ASSIGN_OR_RETURN(std::string out, Normalise(*nfc, text.text(), &edits));
  std::vector<uint32_t> ends(out.size());
  icu::Edits::Iterator it = edits.getFineIterator();
  UErrorCode code = U_ZERO_ERROR;
  while (it.next(code)) {
    for (int32_t i = 0; i < it.newLength(); ++i) {
      // An unchanged stretch maps byte by byte, a changed one as a whole.
      const int32_t source = it.sourceIndex() + (it.hasChange() ? it.oldLength() : i + 1);
      ends[static_cast<size_t>(it.destinationIndex() + i)] =
          static_cast<uint32_t>(text.InputEnd(static_cast<size_t>(source)));
    }
  }
  if (U_FAILURE(code)) return IcuError(code);
  return MappedText(std::move(out), std::move(ends));
}

MappedText MarkSpaces(const MappedText& text, SpaceMark mark, bool is_first) {
  const std::string& in = text.text();
  if (in.empty() || mark == SpaceMark::kNone) return text;
  const bool starts_marked = in[0] == ' ' || absl::StartsWith(in, kMark);
  const bool prefix = mark == SpaceMark::kPrependPiece ||
                      (mark == SpaceMark::kMetaspaceAlways && !starts_marked) ||
                      (mark == SpaceMark::kMetaspaceFirst && is_first && !starts_marked);
  std::string out;
  std::vector<uint32_t> ends;
  const auto add = [&](absl::string_view bytes, size_t end) {
    absl::StrAppend(&out, bytes);
    ends.resize(out.size(), static_cast<uint32_t>(end));
  };
  if (prefix) add(kMark, text.InputEnd(1));
  for (size_t i = 0; i < in.size(); ++i) {
    const absl::string_view byte = absl::string_view(in).substr(i, 1);
    add(in[i] == ' ' ? absl::string_view(kMark) : byte, text.InputEnd(i + 1));
  }
  return MappedText(std::move(out), std::move(ends));
}

}  // namespace evolora
