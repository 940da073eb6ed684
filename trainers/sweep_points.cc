#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "evolora/core/random.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "evolora/trainers/sweep.h"

namespace evolora {
namespace {

constexpr size_t kMaxPoints = 256;
constexpr size_t kMaxNameLength = 200;  // file systems take 255

// Cuts at commas outside brackets and quotes.
std::vector<std::string> SplitValues(absl::string_view text) {
  std::vector<std::string> values = {""};
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' && (i == 0 || text[i - 1] != '\\')) quoted = !quoted;
    if (!quoted && (c == '[' || c == '{')) ++depth;
    if (!quoted && (c == ']' || c == '}')) --depth;
    if (c == ',' && depth == 0 && !quoted) {
      values.emplace_back();
    } else {
      values.back().push_back(c);
    }
  }
  return values;
}

// A value as it stands in a folder's name.
std::string NameOf(const Json& value) {
  std::string text = value.is_string() ? value.get<std::string>() : CanonicalJson(value);
  std::string name;
  for (const char c : text) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_') {
      name.push_back(c);
    } else if (!name.empty() && name.back() != '+') {
      name.push_back('+');
    }
  }
  while (!name.empty() && name.back() == '+') name.pop_back();
  return name;
}

absl::Status CheckAxes(absl::Span<const SweepAxis> axes) {
  if (axes.empty()) return absl::InvalidArgumentError("sweep: no key to vary");
  std::set<std::string> keys;
  size_t count = 1;
  for (const SweepAxis& axis : axes) {
    if (!keys.insert(axis.key).second) {
      return absl::InvalidArgumentError(absl::StrCat("sweep: key ", axis.key, " twice"));
    }
    std::set<std::string> names;
    for (const Json& value : axis.values) {
      if (names.insert(NameOf(value)).second) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("sweep: ", axis.key, ": value ", CanonicalJson(value), " twice"));
    }
    count *= axis.values.size();
    if (count > kMaxPoints) {
      return absl::InvalidArgumentError(absl::StrCat("sweep: more than ", kMaxPoints, " recipes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SweepAxis> ParseSweepAxis(absl::string_view text) {
  const size_t equals = text.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(absl::StrCat("sweep: '", text, "' is not KEY=VALUE,VALUE.."));
  }
  SweepAxis axis{.key = std::string(text.substr(0, equals))};
  for (const std::string& value : SplitValues(text.substr(equals + 1))) {
    if (value.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("sweep: '", text, "' has an empty value"));
    }
    const absl::StatusOr<Json> json = ParseJson(value);
    axis.values.push_back(json.ok() ? *json : Json(value));
  }
  return axis;
}

absl::StatusOr<std::vector<SweepPoint>> SweepPoints(const Json& recipe,
                                                    absl::Span<const SweepAxis> axes) {
  RETURN_IF_ERROR(CheckAxes(axes));
  size_t count = 1;
  for (const SweepAxis& axis : axes) count *= axis.values.size();
  std::vector<SweepPoint> points;
  for (size_t i = 0; i < count; ++i) {
    Json json = recipe;
    std::vector<std::string> names(axes.size());
    size_t rest = i;
    for (size_t k = axes.size(); k-- > 0;) {
      const Json& value = axes[k].values[rest % axes[k].values.size()];
      rest /= axes[k].values.size();
      json[axes[k].key] = value;
      names[k] = absl::StrCat(axes[k].key, "=", NameOf(value));
    }
    SweepPoint point{.name = absl::StrJoin(names, ",")};
    if (point.name.size() > kMaxNameLength) {
      return absl::InvalidArgumentError(absl::StrCat("sweep: name ", point.name, " is longer than ",
                                                     kMaxNameLength, " characters"));
    }
    absl::StatusOr<LoraRecipe> parsed = RecipeFromJson(json);
    if (parsed.ok()) {
      if (absl::Status valid = ValidateRecipe(*parsed); !valid.ok()) parsed = valid;
    }
    if (!parsed.ok()) return Annotate(parsed.status(), point.name);
    point.recipe = *std::move(parsed);
    points.push_back(std::move(point));
  }
  return points;
}

absl::StatusOr<std::vector<TrainingRow>> TakeHeldOut(std::vector<TrainingRow>& rows, double share,
                                                     uint64_t seed) {
  if (!(share > 0 && share < 1)) {
    return absl::InvalidArgumentError(absl::StrCat("held-out share ", share, " is not in (0, 1)"));
  }
  // Rows with the same ids, in an order that the seed draws.
  std::map<std::pair<uint64_t, std::vector<TokenId>>, std::vector<size_t>> groups;
  size_t num_task = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].replay) continue;
    ++num_task;
    groups[{DeriveSeed(seed, absl::StrCat("held-out ", absl::StrJoin(rows[i].ids, " "))),
            rows[i].ids}]
        .push_back(i);
  }
  if (groups.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("held out: ", groups.size(), " different rows, at least 2 are needed"));
  }
  std::set<size_t> taken;
  size_t left = groups.size();
  for (const auto& [key, members] : groups) {
    const bool enough = static_cast<double>(taken.size()) >= share * static_cast<double>(num_task);
    if (left-- == 1 || enough) break;
    taken.insert(members.begin(), members.end());
  }
  std::vector<TrainingRow> held_out, kept;
  for (size_t i = 0; i < rows.size(); ++i) {
    (taken.count(i) != 0 ? held_out : kept).push_back(std::move(rows[i]));
  }
  rows = std::move(kept);
  return held_out;
}

}  // namespace evolora
