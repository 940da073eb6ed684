#pragma once

#include <string>

namespace evolora::testing {

// A fresh folder below TMPDIR, removed with the object.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string Join(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Absolute path of a file of the source tree, e.g. SourcePath("tests/fixtures/x.json").
std::string SourcePath(const std::string& relative);

}  // namespace evolora::testing
