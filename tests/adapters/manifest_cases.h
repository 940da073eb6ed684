#pragma once

#include <string>

#include "evolora/adapters/manifest.h"
#include "evolora/core/sha256.h"

namespace evolora::testing {

// A valid manifest with one scoped and one unscoped adapter; digests of made-up documents.
inline VersionManifest SomeManifest() {
  const auto digest = [](const char* text) { return Sha256Hex(text); };
  VersionManifest m;
  m.base = {"org/base", digest("shape"), digest("weights")};
  m.adapters.push_back({.slot = "tools",
                        .digest = digest("adapter tools"),
                        .blob = digest("tree tools"),
                        .scope = {.any_of = {"weather", "call"}},
                        .rank = 16,
                        .base_name = "org/base"});
  m.adapters.push_back({.slot = "general",
                        .digest = digest("adapter general"),
                        .blob = digest("tree general"),
                        .scope = {.all = true},
                        .rank = 8,
                        .base_name = "org/base"});
  m.artifacts = {digest("prompt"), digest("knowledge"), digest("tools"), digest("validation")};
  m.parents = {digest("parent")};
  m.decision = {{"action", "schedule_lora"}, {"why", "adherence gap 0.4"}};
  m.evidence = digest("evidence");
  return m;
}

}  // namespace evolora::testing
