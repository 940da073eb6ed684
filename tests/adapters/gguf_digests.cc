// gguf_digests FILE.gguf: one line a tensor, "name type shape sha256-of-fp32-values", as
// tools/golden/dequant_golden.py --file prints them; the seconds of dequantising go to stderr.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "evolora/adapters/dequantize.h"
#include "evolora/adapters/gguf.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/core/clock.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

absl::Status PrintDigests(const std::string& path) {
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(PosixFileSystem(), path));
  double seconds = 0;
  int64_t total = 0;
  std::vector<float> values;
  for (const GgufTensor& tensor : file.tensors()) {
    ASSIGN_OR_RETURN(const int64_t count, CountElements(tensor.shape));
    values.assign(count, 0);
    const double start = SystemClock().MonotonicSeconds();
    RETURN_IF_ERROR(DequantizeToFloat(tensor.type, tensor.bytes, count, values.data()));
    seconds += SystemClock().MonotonicSeconds() - start;
    total += count;
    const std::string digest = Sha256().Update(values.data(), count * sizeof(float)).FinishHex();
    std::printf("%s %s %s %s\n", tensor.name.c_str(), GgmlTypeName(tensor.type).c_str(),
                absl::StrJoin(tensor.shape, "x").c_str(), digest.c_str());
  }
  std::fprintf(stderr, "%lld values in %.3f s\n", static_cast<long long>(total), seconds);
  return absl::OkStatus();
}

}  // namespace
}  // namespace evolora

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const absl::Status status = evolora::PrintDigests(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
