#include "support/temp_dir.h"

#include <cstdlib>
#include <filesystem>

namespace evolora::testing {

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "evolora-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) std::abort();
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string SourcePath(const std::string& relative) {
  const char* root = std::getenv("EVOLORA_SOURCE_DIR");
  return std::string(root != nullptr ? root : ".") + "/" + relative;
}

}  // namespace evolora::testing
