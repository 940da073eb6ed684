#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/json.h"

namespace evolora {
namespace {

const Json& EmptyValue(Json::value_t type) {
  static const Json* const null = new Json();
  static const Json* const object = new Json(Json::object());
  static const Json* const array = new Json(Json::array());
  if (type == Json::value_t::object) return *object;
  return type == Json::value_t::array ? *array : *null;
}

std::string Shown(absl::string_view key) { return ReplaceInvalidUtf8(key.substr(0, 100)); }

}  // namespace

JsonFields::JsonFields(const Json& object, std::string path)
    : object_(&object), path_(std::move(path)) {
  if (!object.is_object()) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat(path_, ": expected an object, found ", object.type_name()));
    object_ = &EmptyValue(Json::value_t::object);
  }
}

const Json* JsonFields::Find(absl::string_view key) {
  const auto [name, is_new] = seen_.emplace(key);
  const auto it = object_->find(*name);
  return it == object_->end() ? nullptr : &*it;
}

void JsonFields::Fail(absl::string_view key, absl::string_view why) {
  if (!status_.ok()) return;
  status_ = absl::InvalidArgumentError(absl::StrCat(path_, ".", Shown(key), ": ", why));
}

const Json& JsonFields::Require(absl::string_view key, Json::value_t type,
                                absl::string_view type_name) {
  const Json* value = Find(key);
  if (value == nullptr) {
    Fail(key, "missing");
  } else if (value->type() != type) {
    Fail(key, absl::StrCat("expected ", type_name, ", found ", value->type_name()));
  } else {
    return *value;
  }
  return EmptyValue(type);
}

std::string JsonFields::String(absl::string_view key) {
  const Json& value = Require(key, Json::value_t::string, "a string");
  return value.is_string() ? value.get<std::string>() : std::string();
}

int64_t JsonFields::Integer(absl::string_view key, int64_t min, int64_t max) {
  const Json* value = Find(key);
  if (value == nullptr) {
    Fail(key, "missing");
    return 0;
  }
  if (!value->is_number_integer()) {
    Fail(key, absl::StrCat("expected an integer, found ", value->dump().substr(0, 40)));
    return 0;
  }
  const bool fits =
      !value->is_number_unsigned() ||
      value->get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (!fits || value->get<int64_t>() < min || value->get<int64_t>() > max) {
    Fail(key, absl::StrCat(value->dump(), " is not in [", min, ", ", max, "]"));
    return 0;
  }
  return value->get<int64_t>();
}

double JsonFields::Number(absl::string_view key) {
  const Json* value = Find(key);
  if (value == nullptr) {
    Fail(key, "missing");
    return 0;
  }
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    Fail(key, absl::StrCat("expected a number, found ", value->type_name()));
    return 0;
  }
  return value->get<double>();
}

bool JsonFields::Bool(absl::string_view key) {
  const Json& value = Require(key, Json::value_t::boolean, "true or false");
  return value.is_boolean() && value.get<bool>();
}

const Json& JsonFields::Object(absl::string_view key) {
  return Require(key, Json::value_t::object, "an object");
}

const Json& JsonFields::Array(absl::string_view key) {
  return Require(key, Json::value_t::array, "an array");
}

std::vector<std::string> JsonFields::StringArray(absl::string_view key) {
  std::vector<std::string> texts;
  for (const Json& element : Array(key)) {
    if (!element.is_string()) {
      Fail(key,
           absl::StrCat("[", texts.size(), "]: expected a string, found ", element.type_name()));
      return {};
    }
    texts.push_back(element.get<std::string>());
  }
  return texts;
}

const Json& JsonFields::Any(absl::string_view key) {
  const Json* value = Find(key);
  return value != nullptr ? *value : EmptyValue(Json::value_t::null);
}

std::optional<std::string> JsonFields::OptionalString(absl::string_view key) {
  if (Find(key) == nullptr) return std::nullopt;
  return String(key);
}

std::optional<int64_t> JsonFields::OptionalInteger(absl::string_view key, int64_t min,
                                                   int64_t max) {
  if (Find(key) == nullptr) return std::nullopt;
  return Integer(key, min, max);
}

std::optional<double> JsonFields::OptionalNumber(absl::string_view key) {
  if (Find(key) == nullptr) return std::nullopt;
  return Number(key);
}

std::optional<bool> JsonFields::OptionalBool(absl::string_view key) {
  if (Find(key) == nullptr) return std::nullopt;
  return Bool(key);
}

bool JsonFields::Has(absl::string_view key) const { return object_->contains(std::string(key)); }

absl::Status JsonFields::Done() {
  for (const auto& [key, value] : object_->items()) {
    if (seen_.count(key) == 0) Fail(key, "unknown field");
  }
  return status_;
}

}  // namespace evolora
