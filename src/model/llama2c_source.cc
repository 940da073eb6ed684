#include "llama2c_source.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr uint32_t kMagic = 0x616b3432;
constexpr size_t kVersion1HeaderBytes = 256;

int32_t Int32At(absl::Span<const uint8_t> file, size_t offset) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value |= static_cast<uint32_t>(file[offset + i]) << (8 * i);
  return static_cast<int32_t>(value);
}

// Deals out the tensors of a file in file order.
class Layout {
 public:
  Layout(absl::Span<const uint8_t> file, size_t offset, WeightSource& source)
      : file_(file), offset_(offset), source_(source) {}

  void One(const std::string& name, std::vector<int64_t> shape) { Add(name, std::move(shape), 0); }
  // One tensor for each layer, stacked.
  void PerLayer(const std::string& suffix, const std::vector<int64_t>& shape,
                int64_t adjacent_pair_heads = 0) {
    for (int64_t i = 0; i < source_.config.num_layers; ++i) {
      Add(absl::StrCat("model.layers.", i, ".", suffix, ".weight"), shape, adjacent_pair_heads);
    }
  }
  void Skip(int64_t floats) { offset_ += 4 * static_cast<uint64_t>(floats); }
  uint64_t offset() const { return offset_; }

 private:
  void Add(const std::string& name, std::vector<int64_t> shape, int64_t adjacent_pair_heads) {
    uint64_t bytes = 4;
    for (int64_t axis : shape) bytes *= static_cast<uint64_t>(axis);
    const uint64_t begin = offset_;
    offset_ += bytes;
    const absl::Span<const uint8_t> file = file_;
    source_.tensors[name] = {.shape = std::move(shape),
                             .read =
                                 [file, begin, bytes](float* out) {
                                   std::memcpy(out, file.data() + begin, bytes);
                                   return absl::OkStatus();
                                 },
                             .adjacent_pair_heads = adjacent_pair_heads};
  }

  absl::Span<const uint8_t> file_;
  uint64_t offset_;
  WeightSource& source_;
};

void DealLegacy(const LlamaConfig& c, Layout& layout) {
  const int64_t kv = c.num_kv_heads * c.head_dim;
  layout.One("model.embed_tokens.weight", {c.vocab_size, c.hidden_size});
  layout.PerLayer("input_layernorm", {c.hidden_size});
  layout.PerLayer("self_attn.q_proj", {c.hidden_size, c.hidden_size}, c.num_heads);
  layout.PerLayer("self_attn.k_proj", {kv, c.hidden_size}, c.num_kv_heads);
  layout.PerLayer("self_attn.v_proj", {kv, c.hidden_size});
  layout.PerLayer("self_attn.o_proj", {c.hidden_size, c.hidden_size});
  layout.PerLayer("post_attention_layernorm", {c.hidden_size});
  layout.PerLayer("mlp.gate_proj", {c.intermediate_size, c.hidden_size});
  layout.PerLayer("mlp.down_proj", {c.hidden_size, c.intermediate_size});
  layout.PerLayer("mlp.up_proj", {c.intermediate_size, c.hidden_size});
  layout.One("model.norm.weight", {c.hidden_size});
  layout.Skip(c.max_positions * c.head_dim);
  if (!c.tied_head) layout.One("lm_head.weight", {c.vocab_size, c.hidden_size});
}

void DealVersion1(const LlamaConfig& c, Layout& layout) {
  const int64_t kv = c.num_kv_heads * c.head_dim;
  layout.PerLayer("input_layernorm", {c.hidden_size});
  layout.PerLayer("post_attention_layernorm", {c.hidden_size});
  layout.One("model.norm.weight", {c.hidden_size});
  layout.One("model.embed_tokens.weight", {c.vocab_size, c.hidden_size});
  layout.PerLayer("self_attn.q_proj", {c.hidden_size, c.hidden_size}, c.num_heads);
  layout.PerLayer("self_attn.k_proj", {kv, c.hidden_size}, c.num_kv_heads);
  layout.PerLayer("self_attn.v_proj", {kv, c.hidden_size});
  layout.PerLayer("self_attn.o_proj", {c.hidden_size, c.hidden_size});
  layout.PerLayer("mlp.gate_proj", {c.intermediate_size, c.hidden_size});
  layout.PerLayer("mlp.down_proj", {c.hidden_size, c.intermediate_size});
  layout.PerLayer("mlp.up_proj", {c.intermediate_size, c.hidden_size});
  if (!c.tied_head) layout.One("lm_head.weight", {c.vocab_size, c.hidden_size});
}

absl::StatusOr<LlamaConfig> ReadHeader(absl::Span<const uint8_t> file, size_t offset) {
  LlamaConfig c;
  c.architecture = "llama";
  c.hidden_size = Int32At(file, offset);
  c.intermediate_size = Int32At(file, offset + 4);
  c.num_layers = Int32At(file, offset + 8);
  c.num_heads = Int32At(file, offset + 12);
  c.num_kv_heads = Int32At(file, offset + 16);
  const int64_t vocab = Int32At(file, offset + 20);
  c.vocab_size = vocab < 0 ? -vocab : vocab;
  c.tied_head = vocab > 0;
  c.max_positions = Int32At(file, offset + 24);
  if (c.num_heads < 1 || c.hidden_size % c.num_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "llama2.c header: dim = ", c.hidden_size, " is not a multiple of n_heads = ", c.num_heads));
  }
  c.head_dim = c.hidden_size / c.num_heads;
  RETURN_IF_ERROR(Annotate(ValidateLlamaConfig(c), "llama2.c header"));
  return c;
}

}  // namespace

absl::StatusOr<WeightSource> OpenLlama2c(absl::Span<const uint8_t> file) {
  if (file.size() < 28) {
    return absl::DataLossError(absl::StrCat("llama2.c file: only ", file.size(), " bytes"));
  }
  WeightSource source;
  const bool is_legacy = static_cast<uint32_t>(Int32At(file, 0)) != kMagic;
  if (!is_legacy) {
    if (file.size() < kVersion1HeaderBytes) return absl::DataLossError("llama2.c file: cut header");
    if (Int32At(file, 4) != 1) {
      return absl::UnimplementedError(
          absl::StrCat("llama2.c file: version ", Int32At(file, 4), " (fp32 version 1 is read)"));
    }
  }
  ASSIGN_OR_RETURN(source.config, ReadHeader(file, is_legacy ? 0 : 8));
  if (!is_legacy) {
    if (file[36] > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("llama2.c header: shared_classifier = ", int{file[36]}));
    }
    source.config.tied_head = file[36] == 1;
  }
  Layout layout(file, is_legacy ? 28 : kVersion1HeaderBytes, source);
  is_legacy ? DealLegacy(source.config, layout) : DealVersion1(source.config, layout);
  if (layout.offset() != file.size()) {
    return absl::DataLossError(absl::StrCat("llama2.c file: ", file.size(),
                                            " bytes, its header asks for ", layout.offset()));
  }
  return source;
}

}  // namespace evolora
