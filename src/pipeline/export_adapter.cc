#include "evolora/pipeline/export_adapter.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/adapters/effect_proof.h"
#include "evolora/adapters/peft.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr size_t kNumProbes = 4;
constexpr int kTopLogits = 20;
// fp32 engines with other summation orders differ by about 1e-4 on logits; half-precision servers
// by a few hundredths.
constexpr double kTolerance = 0.1;

// Requests to prove the effect with: cases inside the scope, composed as the version serves them.
std::vector<std::vector<Message>> ProbeChats(const OpenedVersion& version,
                                             const AdapterSlot& slot) {
  std::vector<std::vector<Message>> chats;
  for (const auto& [id, validation] : version.state.validation) {
    if (chats.size() == kNumProbes) break;
    if (validation.value.is_private) continue;
    const std::string text = RequestText(validation.value.messages);
    if (Matches(slot.scope, text)) chats.push_back(validation.value.messages);
  }
  const char* const general[] = {"Who are you?", "What is the capital of France?", "Name a colour.",
                                 "Write one short sentence about the sea."};
  for (const char* text : general) {
    if (chats.size() == kNumProbes) break;
    chats.push_back({{"user", text}});
  }
  return chats;
}

absl::StatusOr<EffectProof> ProveEffect(LanguageModel& model, const OpenedVersion& version,
                                        const AdapterSlot& slot) {
  EffectProof proof{.base_weights_fingerprint = version.record.manifest.base.weights_fingerprint,
                    .adapter_digest = slot.digest,
                    .tolerance = kTolerance};
  std::vector<ScoreRequest> requests;
  for (const std::vector<Message>& chat : ProbeChats(version, slot)) {
    ASSIGN_OR_RETURN(const std::vector<TokenId> ids, model.EncodeChat(chat));
    requests.push_back({.ids = ids, .want_last_logits = true});
    requests.push_back({.ids = ids, .adapter = slot.digest, .want_last_logits = true});
  }
  ASSIGN_OR_RETURN(const std::vector<Scored> scored, model.Score(requests));
  for (size_t i = 0; i + 1 < scored.size(); i += 2) {
    ASSIGN_OR_RETURN(EffectProbe probe, MakeEffectProbe(requests[i].ids, scored[i].last_logits,
                                                        scored[i + 1].last_logits, kTopLogits));
    proof.probes.push_back(std::move(probe));
  }
  return proof;
}

}  // namespace

absl::StatusOr<std::vector<ExportedAdapter>> ExportPeft(Home& home, LanguageModel& model,
                                                        const OpenedVersion& version,
                                                        const std::string& directory) {
  const std::vector<AdapterSlot>& slots = version.record.manifest.adapters;
  if (slots.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("version ", version.record.id.substr(0, 12), " has no adapter to export"));
  }
  ASSIGN_OR_RETURN(const std::vector<ServingName> names,
                   home.registry().ServingNames(version.record.id));
  std::vector<ExportedAdapter> exported;
  for (size_t i = 0; i < slots.size(); ++i) {
    const AdapterSlot& slot = slots[i];
    ASSIGN_OR_RETURN(const LoraAdapter adapter, LoadStoredAdapter(home, slot));
    PeftWriteOptions options;
    ASSIGN_OR_RETURN(options.effect_proof, ProveEffect(model, version, slot));
    const std::string target = slots.size() == 1 ? directory : JoinPath(directory, slot.slot);
    if (slots.size() > 1) RETURN_IF_ERROR(home.files().CreateDirectories(directory));
    RETURN_IF_ERROR(WritePeftFolder(home.files(), target, adapter, options));
    exported.push_back({.slot = slot.slot,
                        .serving_name = names[i].name,
                        .directory = target,
                        .digest = slot.digest});
  }
  return exported;
}

}  // namespace evolora
