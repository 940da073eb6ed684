#include "evolora/pipeline/home.h"

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {

absl::StatusOr<std::unique_ptr<Home>> Home::Open(const std::string& directory, FileSystem& files,
                                                 const Clock& clock) {
  if (directory.empty()) return absl::InvalidArgumentError("no home folder was named");
  RETURN_IF_ERROR(files.CreateDirectories(directory));
  std::unique_ptr<Home> home(new Home(directory, files, clock));
  ASSIGN_OR_RETURN(home->registry_, Registry::Open(directory, files, clock));
  ASSIGN_OR_RETURN(home->evidence_, EvidenceStore::Open(JoinPath(directory, "evidence.db")));
  return home;
}

std::string Home::JobDirectory(absl::string_view digest) const {
  return JoinPath(directory_, absl::StrCat("work/jobs/", digest));
}

std::string Home::AdapterDirectory(absl::string_view digest) const {
  return JoinPath(directory_, absl::StrCat("work/adapters/", digest));
}

std::string Home::ReportDirectory() const { return JoinPath(directory_, "reports"); }

}  // namespace evolora
