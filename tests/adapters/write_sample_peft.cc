// write_sample_peft DIR RANK SCALE F32|F16|BF16 NUM_LAYERS [hole]: writes a random adapter (q_proj
// and v_proj, width 16) as a PEFT folder, for tools/golden/check_peft_folder.py. With "hole" one
// module is left out and one has another rank and scale.
#include <cstdio>
#include <string>

#include "absl/strings/numbers.h"
#include "adapters/sample_adapter.h"
#include "evolora/adapters/peft.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

absl::Status WriteSample(const std::string& dir, int64_t rank, double scale,
                         const std::string& dtype, int num_layers, bool hole) {
  LoraAdapter adapter = testing::SampleAdapter(rank, scale, num_layers, 16);
  if (hole) {
    adapter.modules.pop_back();
    LoraModule& module = adapter.modules.front();
    module = testing::SampleAdapter(1, -scale, 1, 16).modules.front();
  }
  PeftWriteOptions options;
  ASSIGN_OR_RETURN(options.dtype, DTypeFromName(dtype));
  return WritePeftFolder(PosixFileSystem(), dir, adapter, options);
}

}  // namespace
}  // namespace evolora

int main(int argc, char** argv) {
  int64_t rank = 0;
  int num_layers = 0;
  double scale = 0;
  if (argc < 6 || !absl::SimpleAtoi(argv[2], &rank) || !absl::SimpleAtod(argv[3], &scale) ||
      !absl::SimpleAtoi(argv[5], &num_layers)) {
    return 2;
  }
  const absl::Status status =
      evolora::WriteSample(argv[1], rank, scale, argv[4], num_layers, argc > 6);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
