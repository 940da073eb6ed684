#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace evolora {

using Json = nlohmann::json;                 // objects sorted by key
using OrderedJson = nlohmann::ordered_json;  // objects in file order (PEFT patterns need it)

struct JsonLimits {
  size_t max_bytes = 64u << 20;
  int max_depth = 64;
};

// Parses untrusted JSON text: UTF-8, one value, no duplicate keys, no comments, no NaN.
// Errors: InvalidArgument with "line L, column C: why" (columns count bytes, both from 1).
absl::StatusOr<Json> ParseJson(absl::string_view text, const JsonLimits& limits = {});
absl::StatusOr<OrderedJson> ParseOrderedJson(absl::string_view text, const JsonLimits& limits = {});

// Canonical text: keys sorted by byte, no white space, shortest round-trip numbers, UTF-8 as is.
// Equal values give equal text (1, 1.0 and 1e0 are all "1", -0.0 is "0"); digests are taken over
// it. REQUIRES: strings are valid UTF-8 (ReplaceInvalidUtf8 first what a model wrote), numbers are
// finite.
std::string CanonicalJson(const Json& value);

// Text safe to show: as CanonicalJson, with invalid UTF-8 replaced by U+FFFD. For logs and reports.
std::string DisplayJson(const Json& value);

// `text` with each maximal invalid UTF-8 sequence replaced by U+FFFD; valid text comes back as it
// is.
std::string ReplaceInvalidUtf8(absl::string_view text);

// Reads the fields of one JSON object strictly: each getter names its path in errors, and Done()
// reports every key that no getter asked for. The first error sticks; later getters return
// defaults. A null is a wrong type, not an absent key. Integer getters refuse 3.0, number getters
// accept 3.
//
//   JsonFields f(json, "row");
//   Case c{.id = f.String("id"), .score = f.OptionalNumber("score").value_or(0)};
//   RETURN_IF_ERROR(f.Done());
//
// Does not own `object`, which must outlive it. Not thread-safe.
class JsonFields {
 public:
  JsonFields(const Json& object, std::string path);

  std::string String(absl::string_view key);
  int64_t Integer(absl::string_view key, int64_t min, int64_t max);
  double Number(absl::string_view key);
  bool Bool(absl::string_view key);
  const Json& Object(absl::string_view key);
  const Json& Array(absl::string_view key);
  std::vector<std::string> StringArray(absl::string_view key);
  // Any value, or null when the key is absent.
  const Json& Any(absl::string_view key);

  std::optional<std::string> OptionalString(absl::string_view key);
  std::optional<int64_t> OptionalInteger(absl::string_view key, int64_t min, int64_t max);
  std::optional<double> OptionalNumber(absl::string_view key);
  std::optional<bool> OptionalBool(absl::string_view key);
  bool Has(absl::string_view key) const;

  // Records an error of the caller's own at `key` (kept only if it is the first).
  void Fail(absl::string_view key, absl::string_view why);
  const absl::Status& status() const { return status_; }
  // InvalidArgument when a getter failed or a key was never asked for.
  absl::Status Done();

 private:
  const Json* Find(absl::string_view key);
  const Json& Require(absl::string_view key, Json::value_t type, absl::string_view type_name);

  const Json* object_;
  std::string path_;
  std::set<std::string> seen_;
  absl::Status status_;
};

}  // namespace evolora
