#include "evolora/core/episode.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 53;  // exact in every JSON reader

Json FeedbackToJson(const Feedback& feedback) {
  return {{"success", feedback.success},
          {"score", feedback.score},
          {"detail", ReplaceInvalidUtf8(feedback.detail)},
          {"tool_error", feedback.tool_error}};
}

Feedback FeedbackFromFields(JsonFields& fields) {
  Feedback feedback;
  feedback.success = fields.Bool("success");
  feedback.score = fields.Number("score");
  feedback.detail = fields.OptionalString("detail").value_or("");
  feedback.tool_error = fields.OptionalBool("tool_error").value_or(false);
  if (feedback.score < 0 || feedback.score > 1) {
    fields.Fail("score", absl::StrCat(feedback.score, " is not in [0, 1]"));
  }
  return feedback;
}

Json ComputeToJson(const Compute& compute) {
  return {{"prompt_tokens", compute.prompt_tokens},
          {"generated_tokens", compute.generated_tokens},
          {"trained_tokens", compute.trained_tokens},
          {"flops", compute.flops},
          {"seconds", compute.seconds}};
}

Compute ComputeFromFields(JsonFields& fields) {
  Compute compute;
  compute.prompt_tokens = fields.OptionalInteger("prompt_tokens", 0, kMaxCount).value_or(0);
  compute.generated_tokens = fields.OptionalInteger("generated_tokens", 0, kMaxCount).value_or(0);
  compute.trained_tokens = fields.OptionalInteger("trained_tokens", 0, kMaxCount).value_or(0);
  compute.flops = fields.OptionalNumber("flops").value_or(0);
  compute.seconds = fields.OptionalNumber("seconds").value_or(0);
  if (compute.flops < 0) fields.Fail("flops", "negative");
  if (compute.seconds < 0) fields.Fail("seconds", "negative");
  return compute;
}

std::string ContentId(const Episode& episode) {
  Json json = EpisodeToJson(episode);
  json.erase("id");
  json["compute"].erase("seconds");
  return Sha256Hex(CanonicalJson(json));
}

}  // namespace

Json EpisodeToJson(const Episode& episode) {
  return {{"id", episode.id},
          {"case_id", episode.case_id},
          {"cluster", episode.cluster},
          {"version_id", episode.version_id},
          {"adapter", episode.adapter},
          {"used", episode.used},
          {"output", ReplaceInvalidUtf8(episode.output)},
          {"finish_reason", episode.finish_reason},
          {"feedback", FeedbackToJson(episode.feedback)},
          {"compute", ComputeToJson(episode.compute)}};
}

absl::StatusOr<Episode> EpisodeFromJson(const Json& json) {
  Episode episode;
  JsonFields fields(json, "episode");
  episode.id = fields.OptionalString("id").value_or("");
  episode.case_id = fields.String("case_id");
  episode.cluster = fields.OptionalString("cluster").value_or("");
  episode.version_id = fields.OptionalString("version_id").value_or("");
  episode.adapter = fields.OptionalString("adapter").value_or("");
  if (fields.Has("used")) episode.used = fields.StringArray("used");
  episode.output = fields.String("output");
  episode.finish_reason = fields.OptionalString("finish_reason").value_or("");
  JsonFields feedback(fields.Object("feedback"), "episode.feedback");
  const bool has_compute = fields.Has("compute");
  const Json none = Json::object();
  JsonFields compute(has_compute ? fields.Object("compute") : none, "episode.compute");
  RETURN_IF_ERROR(fields.Done());
  episode.feedback = FeedbackFromFields(feedback);
  RETURN_IF_ERROR(feedback.Done());
  episode.compute = ComputeFromFields(compute);
  RETURN_IF_ERROR(compute.Done());
  const std::string id = ContentId(episode);
  if (!episode.id.empty() && episode.id != id) {
    return absl::DataLossError(absl::StrCat(
        "episode ", ReplaceInvalidUtf8(episode.id.substr(0, 80)), ": its content has the id ", id));
  }
  episode.id = id;
  return episode;
}

void AssignEpisodeId(Episode& episode) { episode.id = ContentId(episode); }

}  // namespace evolora
