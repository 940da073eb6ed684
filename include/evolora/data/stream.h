#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/core/case.h"
#include "evolora/core/file_system.h"

namespace evolora {

struct StreamLimits {
  uint64_t max_file_bytes = uint64_t{256} << 20;
  uint64_t max_line_bytes = uint64_t{1} << 20;
  int64_t max_rows = 1'000'000;
  int max_depth = 32;  // nesting of one row's JSON
};

// One opening of a sealed split, as it is kept for the report.
struct Look {
  std::string stream_digest;
  std::string reason;
  int64_t num_cases = 0;
};

// Keeps looks, append only. StoreLookRecorder (evidence_store.h) is the real one.
class LookRecorder {
 public:
  virtual ~LookRecorder() = default;
  // Makes the look durable and returns how many looks at this stream are on record, this one
  // included. Any error keeps the seal closed.
  virtual absl::StatusOr<int64_t> RecordLook(const Look& look) = 0;
};

struct OpenedSeal {
  std::vector<Case> cases;
  int64_t num_looks = 0;  // at this stream so far, this one included
};

// The cases of one stream file (data/SCHEMA.md), by split, each in file order. Immutable.
//
// The test split is sealed: no accessor, iterator or friend hands out a test case (nor its text, id
// or cluster) except OpenSealed, and that only after the look is on record.
class Stream {
 public:
  const std::vector<Case>& stream() const { return stream_; }
  const std::vector<Case>& query() const { return query_; }
  const std::vector<Case>& anchor() const { return anchor_; }
  int64_t num_sealed() const { return static_cast<int64_t>(sealed_.size()); }

  // Records the look, then returns the test cases.
  //
  // Errors: InvalidArgument `reason` is blank; any error of the recorder (the cases stay sealed).
  absl::StatusOr<OpenedSeal> OpenSealed(LookRecorder& recorder, absl::string_view reason) const;

  // SHA-256 over the canonical JSON of all rows in file order, one a line. White space, key order
  // and line ends of the file do not change it; the order of rows does.
  const std::string& digest() const { return digest_; }

 private:
  friend class StreamParser;
  Stream() = default;

  std::vector<Case> stream_;
  std::vector<Case> query_;
  std::vector<Case> anchor_;
  std::vector<Case> sealed_;
  std::string digest_;
};

// Parses a whole stream file. `name` is the file's name for messages. Untrusted input.
//
// Lines end with LF or CR LF; the last one may lack it. Each holds one JSON object, strictly as
// CaseFromJson takes it; an empty line, a byte order mark and an id used twice are errors.
// Errors: InvalidArgument "<name>:<line>:<column>: why" where the JSON is broken (columns count
//           bytes from 1), "<name>:<line>: <field>: why" where a field is wrong, both lines when an
//           id is used twice; also for a file without any row
//         ResourceExhausted a limit is passed; the message names limit and line
absl::StatusOr<Stream> ParseStream(absl::string_view text, const std::string& name,
                                   const StreamLimits& limits = {});

// Reads `path` and parses it. Errors: those of FileSystem::ReadFile and of ParseStream.
absl::StatusOr<Stream> LoadStream(const FileSystem& files, const std::string& path,
                                  const StreamLimits& limits = {});

}  // namespace evolora
