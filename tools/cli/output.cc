#include "output.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/clock.h"

namespace evolora::cli {
namespace {

size_t NumCodePoints(absl::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string Duration(double seconds) {
  const int64_t total = static_cast<int64_t>(seconds + 0.5);
  if (total < 60) return absl::StrFormat("%ds", total);
  if (total < 3600) return absl::StrFormat("%dm%02ds", total / 60, total % 60);
  return absl::StrFormat("%dh%02dm", total / 3600, total / 60 % 60);
}

}  // namespace

void PrintJson(const Json& value) {
  const std::string line = DisplayJson(value) + "\n";
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
}

std::string Table::ToText() const {
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], NumCodePoints(row[c]));
  }
  std::string text;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < rows_[r].size(); ++c) {
      absl::StrAppend(&line, c == 0 ? "" : "  ", rows_[r][c],
                      std::string(widths[c] - NumCodePoints(rows_[r][c]), ' '));
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, line, "\n");
    if (r != 0) continue;
    size_t total = 0;
    for (const size_t width : widths) total += width + 2;
    absl::StrAppend(&text, std::string(total - 2, '-'), "\n");
  }
  return text;
}

void ProgressBar::Update(const std::string& phase, int64_t done, int64_t total,
                         const std::string& extra) {
  const double now = SystemClock().MonotonicSeconds();
  if (phase != phase_) {
    Clear();
    phase_ = phase;
    last_tenth_ = -1;
  }
  const auto [it, is_new] = paces_.try_emplace(phase, Pace{now, done, done});
  Pace& pace = it->second;
  if (!is_new && done <= pace.last) pace = {now, done, done};  // the phase has begun anew
  pace.last = done;
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
  std::string eta;
  if (done > pace.first && done < total) {
    const double seconds_each = (now - pace.started) / static_cast<double>(done - pace.first);
    eta = absl::StrCat(" ETA ", Duration(seconds_each * static_cast<double>(total - done)));
  }
  if (isatty(STDERR_FILENO) != 0) {
    constexpr size_t kWidth = 24;
    const size_t filled = static_cast<size_t>(share * kWidth);
    std::fprintf(stderr, "\r\033[K%-16s [%s%s] %ld/%ld%s %s", phase.c_str(),
                 std::string(filled, '#').c_str(), std::string(kWidth - filled, '.').c_str(),
                 static_cast<long>(done), static_cast<long>(total), eta.c_str(), extra.c_str());
    open_ = true;
    if (done >= total) Clear();
    return;
  }
  const int64_t tenth = static_cast<int64_t>(share * 10);
  if (tenth == last_tenth_) return;
  last_tenth_ = tenth;
  std::fprintf(stderr, "%s %ld/%ld%s %s\n", phase.c_str(), static_cast<long>(done),
               static_cast<long>(total), eta.c_str(), extra.c_str());
}

void ProgressBar::Clear() {
  if (open_) std::fprintf(stderr, "\r\033[K");
  open_ = false;
}

std::string Percent(double share) { return absl::StrFormat("%.0f %%", 100 * share); }

std::string Shorten(absl::string_view text, size_t width) {
  std::string out;
  size_t points = 0;
  for (const char c : text) {
    const bool starts_point = (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    if (starts_point && ++points > width) {
      while (NumCodePoints(out) + 3 > width) {
        while ((static_cast<unsigned char>(out.back()) & 0xC0) == 0x80) out.pop_back();
        out.pop_back();
      }
      return out + "...";
    }
    out += (c == '\n' || c == '\r' || c == '\t') ? ' ' : c;
  }
  return out;
}

}  // namespace evolora::cli
