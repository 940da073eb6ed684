#include "hf_components.h"

#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "pre_tokenizers.h"

namespace evolora {
namespace {

constexpr char kMark[] = "\xE2\x96\x81";  // U+2581

// The "type" of a component; InvalidArgument when `json` is no object with one.
absl::StatusOr<std::string> TypeOf(const Json& json, const std::string& path) {
  if (!json.is_object()) return absl::InvalidArgumentError(path + ": not an object");
  const auto it = json.find("type");
  if (it == json.end() || !it->is_string()) {
    return absl::InvalidArgumentError(path + ".type: not a string");
  }
  return it->get<std::string>();
}

// The elements of a Sequence component, or the component itself. Sequences do not nest in practice.
struct Step {
  const Json* json;
  std::string path;
  std::string type;
};
absl::StatusOr<std::vector<Step>> StepsOf(const Json& json, const std::string& path,
                                          const std::string& list_key) {
  ASSIGN_OR_RETURN(std::string type, TypeOf(json, path));
  if (type != "Sequence") return std::vector<Step>{{&json, path, std::move(type)}};
  JsonFields fields(json, path);
  (void)fields.String("type");
  const Json& list = fields.Array(list_key);
  RETURN_IF_ERROR(fields.Done());
  std::vector<Step> steps;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string step_path = absl::StrCat(path, ".", list_key, "[", i, "]");
    ASSIGN_OR_RETURN(std::string step_type, TypeOf(list[i], step_path));
    if (step_type == "Sequence") return HfUnimplemented(step_path, "a nested Sequence");
    steps.push_back({&list[i], step_path, std::move(step_type)});
  }
  return steps;
}

// {"String": "x"} or {"Regex": "x"}.
absl::StatusOr<std::string> PatternText(const Json& json, const std::string& path,
                                        const std::string& kind) {
  if (!json.is_object()) return absl::InvalidArgumentError(path + ": not an object");
  if (!json.contains(kind)) return HfUnimplemented(path, "a pattern that is not a " + kind);
  JsonFields fields(json, path);
  std::string text = fields.String(kind);
  RETURN_IF_ERROR(fields.Done());
  return text;
}

// Replace of `from` by `to`, exactly.
absl::Status ExpectReplace(const Step& step, const std::string& from, const std::string& to) {
  JsonFields fields(*step.json, step.path);
  (void)fields.String("type");
  const Json& pattern = fields.Any("pattern");
  const std::string content = fields.String("content");
  RETURN_IF_ERROR(fields.Done());
  ASSIGN_OR_RETURN(const std::string text, PatternText(pattern, step.path + ".pattern", "String"));
  if (text != from || content != to) {
    return HfUnimplemented(step.path, absl::StrCat("Replace '", text, "' by '", content, "'"));
  }
  return absl::OkStatus();
}

absl::Status ReadByteLevel(const Step& step, TokenizerSpec& spec) {
  JsonFields fields(*step.json, step.path);
  (void)fields.String("type");
  const bool add_prefix_space = fields.Bool("add_prefix_space");
  (void)fields.OptionalBool("trim_offsets");
  const bool use_regex = fields.OptionalBool("use_regex").value_or(true);
  RETURN_IF_ERROR(fields.Done());
  if (add_prefix_space) return HfUnimplemented(step.path + ".add_prefix_space", "true");
  if (use_regex) spec.split_patterns.push_back(kGpt2Split);
  return absl::OkStatus();
}

absl::Status ReadSplit(const Step& step, TokenizerSpec& spec) {
  JsonFields fields(*step.json, step.path);
  (void)fields.String("type");
  const Json& pattern = fields.Any("pattern");
  const std::string behavior = fields.String("behavior");
  const bool invert = fields.Bool("invert");
  RETURN_IF_ERROR(fields.Done());
  if (behavior != "Isolated" || invert) {
    return HfUnimplemented(
        step.path, absl::StrCat("behavior '", behavior, "', invert ", invert ? "true" : "false"));
  }
  ASSIGN_OR_RETURN(std::string regex, PatternText(pattern, step.path + ".pattern", "Regex"));
  spec.split_patterns.push_back(std::move(regex));
  return absl::OkStatus();
}

absl::Status ReadDigits(const Step& step, TokenizerSpec& spec) {
  JsonFields fields(*step.json, step.path);
  (void)fields.String("type");
  const bool individual = fields.Bool("individual_digits");
  RETURN_IF_ERROR(fields.Done());
  spec.split_patterns.push_back(individual ? kDigitSplit : kDigitsSplit);
  return absl::OkStatus();
}

absl::Status ReadMetaspace(const Step& step, TokenizerSpec& spec) {
  JsonFields fields(*step.json, step.path);
  (void)fields.String("type");
  const std::string replacement = fields.String("replacement");
  const std::string scheme = fields.String("prepend_scheme");
  const bool split = fields.OptionalBool("split").value_or(true);
  RETURN_IF_ERROR(fields.Done());
  if (replacement != kMark) return HfUnimplemented(step.path + ".replacement", replacement);
  if (split) return HfUnimplemented(step.path + ".split", "true");
  if (spec.space_mark != SpaceMark::kNone) {
    return HfUnimplemented(step.path, "Metaspace after a normalizer that marks blanks");
  }
  if (scheme == "first") {
    spec.space_mark = SpaceMark::kMetaspaceFirst;
  } else if (scheme == "always") {
    spec.space_mark = SpaceMark::kMetaspaceAlways;
  } else if (scheme == "never") {
    spec.space_mark = SpaceMark::kMetaspaceNever;
  } else {
    return HfUnimplemented(step.path + ".prepend_scheme", scheme);
  }
  return absl::OkStatus();
}

// The token that a TemplateProcessing puts in front of one sequence, "" for none.
absl::StatusOr<std::string> LeadingToken(const Json& single, const std::string& path) {
  std::string leading;
  for (size_t i = 0; i < single.size(); ++i) {
    const Json& item = single[i];
    const bool is_last = i + 1 == single.size();
    const char* kind = is_last ? "Sequence" : "SpecialToken";
    const std::string item_path = absl::StrCat(path, "[", i, "]");
    if (i > 1 || !item.is_object() || item.size() != 1 || !item.contains(kind)) {
      return HfUnimplemented(item_path, "a template other than [token] $A");
    }
    JsonFields fields(item[kind], item_path + "." + kind);
    const std::string id = fields.String("id");
    (void)fields.Integer("type_id", 0, 1);
    RETURN_IF_ERROR(fields.Done());
    if (!is_last) leading = id;
  }
  return leading;
}

absl::Status ReadTemplateProcessing(const Step& step, std::string& bos_text) {
  JsonFields fields(*step.json, step.path);
  (void)fields.String("type");
  const Json& single = fields.Array("single");
  (void)fields.Any("pair");  // evolora encodes no pairs
  (void)fields.Any("special_tokens");
  RETURN_IF_ERROR(fields.Done());
  ASSIGN_OR_RETURN(bos_text, LeadingToken(single, step.path + ".single"));
  return absl::OkStatus();
}

absl::Status ReadStrip(const Step& step) {
  JsonFields fields(*step.json, step.path);
  (void)fields.String("type");
  const std::string content = fields.String("content");
  const int64_t start = fields.Integer("start", 0, 1 << 20);
  const int64_t stop = fields.Integer("stop", 0, 1 << 20);
  RETURN_IF_ERROR(fields.Done());
  if (content != " " || start != 1 || stop != 0) {
    return HfUnimplemented(step.path, "Strip of other than one blank at the start");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status HfUnimplemented(const std::string& path, const std::string& what) {
  return absl::UnimplementedError(absl::StrCat(path, ": ", what, " is not implemented"));
}

absl::Status ReadHfNormalizer(const Json& json, const std::string& path, TokenizerSpec& spec) {
  if (json.is_null()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<Step> steps, StepsOf(json, path, "normalizers"));
  if (steps.size() == 1 && steps[0].type == "NFC") {
    JsonFields fields(*steps[0].json, steps[0].path);
    (void)fields.String("type");
    spec.nfc = true;
    return fields.Done();
  }
  if (steps.empty()) return absl::OkStatus();
  if (steps.size() != 2 || steps[0].type != "Prepend" || steps[1].type != "Replace") {
    return HfUnimplemented(path, absl::StrCat("normalizer ", steps[0].type));
  }
  JsonFields fields(*steps[0].json, steps[0].path);
  (void)fields.String("type");
  const std::string prepend = fields.String("prepend");
  RETURN_IF_ERROR(fields.Done());
  if (prepend != kMark) return HfUnimplemented(steps[0].path + ".prepend", prepend);
  RETURN_IF_ERROR(ExpectReplace(steps[1], " ", kMark));
  spec.space_mark = SpaceMark::kPrependPiece;
  return absl::OkStatus();
}

absl::Status ReadHfPreTokenizer(const Json& json, const std::string& path, TokenizerSpec& spec,
                                bool& is_byte_level) {
  is_byte_level = false;
  if (json.is_null()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<Step> steps, StepsOf(json, path, "pretokenizers"));
  for (const Step& step : steps) {
    if (is_byte_level) return HfUnimplemented(step.path, step.type + " after ByteLevel");
    if (step.type == "ByteLevel") {
      RETURN_IF_ERROR(ReadByteLevel(step, spec));
      is_byte_level = true;
    } else if (step.type == "Split") {
      RETURN_IF_ERROR(ReadSplit(step, spec));
    } else if (step.type == "Digits") {
      RETURN_IF_ERROR(ReadDigits(step, spec));
    } else if (step.type == "Metaspace" && steps.size() == 1) {
      RETURN_IF_ERROR(ReadMetaspace(step, spec));
    } else {
      return HfUnimplemented(step.path, "pre-tokenizer " + step.type);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadHfPostProcessor(const Json& json, const std::string& path, std::string& bos_text) {
  if (json.is_null()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<Step> steps, StepsOf(json, path, "processors"));
  for (const Step& step : steps) {
    if (step.type == "ByteLevel") continue;  // moves offsets only
    if (step.type != "TemplateProcessing" || !bos_text.empty()) {
      return HfUnimplemented(step.path, "post-processor " + step.type);
    }
    RETURN_IF_ERROR(ReadTemplateProcessing(step, bos_text));
  }
  return absl::OkStatus();
}

absl::Status ReadHfDecoder(const Json& json, const std::string& path, TokenizerSpec& spec) {
  if (json.is_null()) return HfUnimplemented(path, "null");
  ASSIGN_OR_RETURN(const std::vector<Step> steps, StepsOf(json, path, "decoders"));
  std::vector<std::string> types;
  for (const Step& step : steps) types.push_back(step.type);
  if (spec.kind == TokenizerKind::kByteLevelBpe) {
    if (types != std::vector<std::string>{"ByteLevel"}) {
      return HfUnimplemented(path, "a decoder of a byte-level model other than ByteLevel");
    }
    return absl::OkStatus();
  }
  spec.add_dummy_prefix = types.size() == 4 && types[3] == "Strip";
  if (spec.add_dummy_prefix) {
    RETURN_IF_ERROR(ReadStrip(steps[3]));
    types.pop_back();
  }
  if (types != std::vector<std::string>{"Replace", "ByteFallback", "Fuse"}) {
    return HfUnimplemented(path, "a decoder other than Replace, ByteFallback, Fuse (, Strip)");
  }
  return ExpectReplace(steps[0], kMark, " ");
}

}  // namespace evolora
