#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "evolora/adapters/registry.h"
#include "evolora/core/clock.h"
#include "evolora/core/file_system.h"
#include "evolora/data/evidence_store.h"

namespace evolora {

// One folder that holds everything evolora keeps:
//
//   registry.db, registry.lock, blobs/   versions, aliases, their bytes (adapters/registry.h)
//   evidence.db                          episodes, probes, decisions, memo (evidence_store.h)
//   bases/<name>/                        imported base models (pipeline/base_store.h)
//   work/jobs/<digest>/                  training jobs, resumable
//   work/adapters/<digest>/              adapters unpacked from blobs, safe to delete
//   reports/                             written reports
//
// Opening takes the registry's lock: one process per home. Does not own `files` and `clock`.
class Home {
 public:
  // Errors: Unavailable another process works in this home; those of Registry and EvidenceStore.
  static absl::StatusOr<std::unique_ptr<Home>> Open(const std::string& directory, FileSystem& files,
                                                    const Clock& clock);

  const std::string& directory() const { return directory_; }
  FileSystem& files() { return *files_; }
  const Clock& clock() const { return *clock_; }
  Registry& registry() { return *registry_; }
  EvidenceStore& evidence() { return *evidence_; }

  std::string JobDirectory(absl::string_view digest) const;
  std::string AdapterDirectory(absl::string_view digest) const;
  std::string ReportDirectory() const;

 private:
  Home(std::string directory, FileSystem& files, const Clock& clock)
      : directory_(std::move(directory)), files_(&files), clock_(&clock) {}

  std::string directory_;
  FileSystem* files_;
  const Clock* clock_;
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<EvidenceStore> evidence_;
};

}  // namespace evolora
