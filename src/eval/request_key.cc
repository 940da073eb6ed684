#include "evolora/eval/request_key.h"

#include <bit>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "evolora/core/sha256.h"

namespace evolora {
namespace {

// Fields are hashed with their lengths in front, so no two requests share a byte stream.
void Add(Sha256& hash, absl::string_view text) {
  hash.Update(absl::StrCat(text.size(), ":")).Update(text);
}
void Add(Sha256& hash, uint64_t value) { hash.Update(absl::StrCat(value, ";")); }

}  // namespace

std::string RequestKey(const GenerateRequest& request) {
  Sha256 hash;
  Add(hash, "evolora-request-1");
  // Ids win over messages, which then do not matter.
  Add(hash, request.ids.size());
  for (const TokenId id : request.ids) Add(hash, static_cast<uint64_t>(static_cast<uint32_t>(id)));
  if (request.ids.empty()) {
    Add(hash, request.messages.size());
    for (const Message& message : request.messages) {
      Add(hash, message.role);
      Add(hash, message.content);
    }
  }
  Add(hash, request.adapter);
  Add(hash, static_cast<uint64_t>(request.max_new_tokens));
  const Sampling& sampling = request.sampling;
  if (sampling.temperature == 0) {
    Add(hash, "greedy");
  } else {
    Add(hash, std::bit_cast<uint64_t>(sampling.temperature));
    Add(hash, std::bit_cast<uint64_t>(sampling.top_p));
    Add(hash, static_cast<uint64_t>(sampling.top_k));
    Add(hash, sampling.seed);
  }
  Add(hash, request.stop.size());
  for (const std::string& text : request.stop) Add(hash, text);
  if (request.ignore_eos) Add(hash, "ignore_eos");
  return hash.FinishHex();
}

}  // namespace evolora
