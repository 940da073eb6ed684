#include "evolora/data/stream.h"

#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "evolora/core/json.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"

namespace evolora {

// Takes rows one by one; the only writer of a Stream.
class StreamParser {
 public:
  StreamParser(const std::string& name, const StreamLimits& limits)
      : name_(name), limits_(limits) {}

  absl::StatusOr<Stream> Parse(absl::string_view text) {
    if (absl::StartsWith(text, "\xEF\xBB\xBF")) {
      return absl::InvalidArgumentError(absl::StrCat(name_, ":1:1: byte order mark"));
    }
    while (!text.empty()) {
      const size_t end = text.find('\n');
      const absl::string_view line = text.substr(0, end);
      text = end == absl::string_view::npos ? absl::string_view() : text.substr(end + 1);
      ++line_;
      RETURN_IF_ERROR(TakeLine(absl::StripSuffix(line, "\r")));
    }
    if (line_ == 0) return absl::InvalidArgumentError(absl::StrCat(name_, ": no rows"));
    stream_.digest_ = digest_.FinishHex();
    return std::move(stream_);
  }

 private:
  absl::Status TakeLine(absl::string_view line) {
    if (line.size() > limits_.max_line_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(Here(), ": line of ", line.size(),
                                                       " bytes, at most ", limits_.max_line_bytes));
    }
    if (line_ > limits_.max_rows) {
      return absl::ResourceExhaustedError(
          absl::StrCat(Here(), ": more than ", limits_.max_rows, " rows"));
    }
    if (line.empty()) return absl::InvalidArgumentError(absl::StrCat(Here(), ":1: empty line"));
    ASSIGN_OR_RETURN(const Json json, ParseRow(line));
    absl::StatusOr<Case> row = CaseFromJson(json);
    if (!row.ok()) return Annotate(row.status(), Here());
    digest_.Update(CanonicalJson(CaseToJson(*row))).Update("\n");
    return Keep(*std::move(row));
  }

  // The JSON parser sees one line, so its "line 1" is ours; its column stays.
  absl::StatusOr<Json> ParseRow(absl::string_view line) const {
    const JsonLimits json_limits{.max_bytes = limits_.max_line_bytes,
                                 .max_depth = limits_.max_depth};
    absl::StatusOr<Json> json = ParseJson(line, json_limits);
    if (json.ok()) return json;
    absl::string_view why = json.status().message();
    if (absl::ConsumePrefix(&why, "line 1, column ")) {
      return absl::Status(json.status().code(), absl::StrCat(Here(), ":", why));
    }
    return Annotate(json.status(), Here());
  }

  absl::Status Keep(Case row) {
    const auto [it, is_new] = line_of_id_.emplace(row.id, line_);
    if (!is_new) {
      return absl::InvalidArgumentError(
          absl::StrCat(Here(), ": id '", row.id, "' is already used in line ", it->second));
    }
    switch (row.split) {
      case Split::kStream:
        stream_.stream_.push_back(std::move(row));
        break;
      case Split::kQuery:
        stream_.query_.push_back(std::move(row));
        break;
      case Split::kAnchor:
        stream_.anchor_.push_back(std::move(row));
        break;
      case Split::kTest:
        stream_.sealed_.push_back(std::move(row));
        break;
    }
    return absl::OkStatus();
  }

  std::string Here() const { return absl::StrCat(name_, ":", line_); }

  const std::string& name_;
  const StreamLimits& limits_;
  int64_t line_ = 0;
  std::map<std::string, int64_t> line_of_id_;
  Sha256 digest_;
  Stream stream_;
};

absl::StatusOr<Stream> ParseStream(absl::string_view text, const std::string& name,
                                   const StreamLimits& limits) {
  if (text.size() > limits.max_file_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(name, ": ", text.size(), " bytes, at most ", limits.max_file_bytes));
  }
  return StreamParser(name, limits).Parse(text);
}

absl::StatusOr<Stream> LoadStream(const FileSystem& files, const std::string& path,
                                  const StreamLimits& limits) {
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path, limits.max_file_bytes));
  return ParseStream(text, path, limits);
}

absl::StatusOr<OpenedSeal> Stream::OpenSealed(LookRecorder& recorder,
                                              absl::string_view reason) const {
  if (absl::StripAsciiWhitespace(reason).empty()) {
    return absl::InvalidArgumentError("the test split is opened without a reason");
  }
  OpenedSeal out;
  ASSIGN_OR_RETURN(out.num_looks,
                   recorder.RecordLook({digest_, std::string(reason), num_sealed()}));
  out.cases = sealed_;
  return out;
}

}  // namespace evolora
