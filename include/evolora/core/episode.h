#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/core/compute.h"
#include "evolora/core/json.h"

namespace evolora {

// The verdict on one output.
struct Feedback {
  bool success = false;
  double score = 0;    // [0, 1]
  std::string detail;  // why, in words; for a failed tool call what the runtime said
  // The environment, not the answer, broke: unknown tool, bad path, crash.
  bool tool_error = false;
};

// One solved case. Never changed once kept; `id` is the SHA-256 of its canonical JSON without
// `id` and without measured seconds, so that keeping it twice is keeping it once.
struct Episode {
  std::string id;
  std::string case_id;
  std::string cluster;
  std::string version_id;         // the state it ran under
  std::string adapter;            // digest of the adapter the request was routed to, or ""
  std::vector<std::string> used;  // ids of knowledge entries and skills put into the context
  std::string output;
  std::string finish_reason;
  Feedback feedback;
  Compute compute;
};

// JSON of one episode, both ways. Texts a model or tool wrote need not be UTF-8: ToJson replaces
// the invalid bytes by U+FFFD. FromJson is strict; an absent or empty `id` is filled in. Errors:
// InvalidArgument  unknown or missing field, wrong type, score outside [0, 1]
//         DataLoss         `id` is there but is not that of the content
Json EpisodeToJson(const Episode& episode);
absl::StatusOr<Episode> EpisodeFromJson(const Json& json);
// Fills `episode.id` from the content.
void AssignEpisodeId(Episode& episode);

}  // namespace evolora
