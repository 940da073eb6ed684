#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "evolora/core/json.h"

namespace evolora::cli {

// Writes one JSON object as a line on stdout and flushes it.
void PrintJson(const Json& value);

// Columns of text, padded to the widest cell (UTF-8 aware in its simplest form: code points).
class Table {
 public:
  explicit Table(std::vector<std::string> titles) : rows_{std::move(titles)} {}
  void Add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // The whole table, a line under the titles.
  std::string ToText() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// A progress bar with ETA on stderr: redrawn in place on a terminal, else one line per tenth.
class ProgressBar {
 public:
  // Starts a new bar when `phase` differs from the last one.
  void Update(const std::string& phase, int64_t done, int64_t total, const std::string& extra = "");
  // Ends the bar's line, so that other text can follow.
  void Clear();

 private:
  // Of one phase: when and where it was first seen, for its ETA.
  struct Pace {
    double started;
    int64_t first;
    int64_t last;
  };
  std::map<std::string, Pace> paces_;
  std::string phase_;
  int64_t last_tenth_ = -1;
  bool open_ = false;
};

// "0.123" -> "12 %".
std::string Percent(double share);
// At most `width` code points, with "..." at the end when cut; line breaks become blanks.
std::string Shorten(absl::string_view text, size_t width);

}  // namespace evolora::cli
