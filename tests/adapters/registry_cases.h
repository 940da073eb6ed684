#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/adapters/registry.h"
#include "evolora/core/sha256.h"
#include "gate_cases.h"
#include "support/status_matchers.h"

namespace evolora::testing {

// A manifest that differs by `tag`, with all its blobs put into the registry's store.
inline VersionManifest StoredManifest(Registry& registry, const std::string& tag,
                                      std::vector<std::string> parents = {},
                                      bool with_adapter = true) {
  BlobStore& blobs = registry.blobs();
  VersionManifest m;
  m.base = {"org/base", Sha256Hex("shape"), Sha256Hex("weights")};
  m.artifacts = {*blobs.PutJson({{"prompt", tag}}), *blobs.PutJson({{"knowledge", tag}}),
                 *blobs.PutJson({{"tools", "none"}}), *blobs.PutJson({{"validation", "none"}})};
  m.evidence = *blobs.PutJson({{"evidence", tag}});
  m.decision = {{"action", "patch"}, {"tag", tag}};
  m.parents = std::move(parents);
  if (with_adapter) {
    m.adapters.push_back({.slot = "main",
                          .digest = Sha256Hex("adapter of " + tag),
                          .blob = *blobs.PutTree({{"adapter.safetensors", tag}}),
                          .scope = {.all = true},
                          .rank = 8,
                          .base_name = "org/base"});
  }
  return m;
}

inline GateVerdict PassingVerdict() {
  return *Judge(Pairs("q", 14, 0, 114), Pairs("a", 0, 0, 104), {}, {});
}
inline GateVerdict FailingVerdict() { return *Judge(Pairs("q", 0, 40, 0), {}, {}, {}); }
inline GateVerdict OpenVerdict() { return *Judge(Pairs("q", 1, 1, 40), {}, {}, {}); }

// Everything a reader can see, without times.
inline std::string Snapshot(const Registry& registry) {
  const std::vector<VersionRecord> versions = registry.List().value();
  const std::vector<AliasRecord> aliases = registry.ListAliases().value();
  const std::vector<AliasLogRow> log = registry.Log("").value();
  const std::vector<OutboxEvent> events = registry.Outbox(0).value();
  std::string out;
  for (const VersionRecord& v : versions) {
    absl::StrAppend(&out, "version ", v.seq, " ", v.id, " ", VersionStateName(v.state), " ",
                    v.state_reason, "\n");
  }
  for (const AliasRecord& a : aliases) {
    absl::StrAppend(&out, "alias ", a.name, " ", a.version_id, " ", a.epoch, "\n");
  }
  for (const AliasLogRow& r : log) {
    absl::StrAppend(&out, "log ", r.id, " ", r.alias, " ", r.kind, " ", r.from_version, ">",
                    r.to_version, " ", r.epoch, " ", r.reason, " ", r.verdict, "\n");
  }
  for (const OutboxEvent& e : events) {
    absl::StrAppend(&out, "event ", e.id, " ", e.topic, " ", CanonicalJson(e.payload), "\n");
  }
  return out;
}

}  // namespace evolora::testing
