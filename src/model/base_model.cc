#include "evolora/model/base_model.h"

#include <cstring>
#include <optional>
#include <utility>

#include "ATen/Functions.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base_tokenizer.h"
#include "evolora/adapters/dequantize.h"
#include "evolora/adapters/gguf.h"
#include "evolora/adapters/safetensors.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/torch_status.h"
#include "gguf_source.h"
#include "hf_config.h"
#include "llama2c_source.h"
#include "weight_source.h"

namespace evolora {
namespace {

constexpr uint64_t kMaxConfigBytes = 1 << 20;

// What the three kinds of files give.
struct Loaded {
  std::shared_ptr<const LlamaWeights> weights;
  BaseTokenizer tokenizer;
};

absl::StatusOr<Loaded> LoadGguf(const FileSystem& fs, const std::string& path, bool own_tokenizer,
                                WeightStorage storage) {
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(fs, path));
  ASSIGN_OR_RETURN(const WeightSource source, OpenGguf(file));
  Loaded loaded;
  ASSIGN_OR_RETURN(loaded.weights, ReadWeights(source, storage));
  if (!own_tokenizer || !file.Has("tokenizer.ggml.model")) return loaded;
  ASSIGN_OR_RETURN(GgufVocabulary vocabulary, ReadGgufVocabulary(file));
  ASSIGN_OR_RETURN(TokenizerSpec spec, TokenizerSpecFromGguf(std::move(vocabulary)));
  ASSIGN_OR_RETURN(loaded.tokenizer, MakeBaseTokenizer(std::move(spec)));
  return loaded;
}

// A stored head beside a tied embedding: equal -> dropped, different -> not tied.
absl::Status SettleTiedHead(WeightSource& source) {
  const auto head = source.tensors.find("lm_head.weight");
  const auto embedding = source.tensors.find("model.embed_tokens.weight");
  if (!source.config.tied_head || head == source.tensors.end()) return absl::OkStatus();
  source.config.tied_head = false;
  const std::vector<int64_t> shape = {source.config.vocab_size, source.config.hidden_size};
  // Odd shapes are ReadWeights' business.
  if (embedding == source.tensors.end() || head->second.shape != shape ||
      embedding->second.shape != shape) {
    return absl::OkStatus();
  }
  const auto count = static_cast<size_t>(shape[0] * shape[1]);
  std::vector<float> a(count), b(count);
  RETURN_IF_ERROR(head->second.read(a.data()));
  RETURN_IF_ERROR(embedding->second.read(b.data()));
  if (std::memcmp(a.data(), b.data(), count * sizeof(float)) == 0) {
    source.config.tied_head = true;
    source.tensors.erase(head);
  }
  return absl::OkStatus();
}

absl::StatusOr<Loaded> LoadFolder(const FileSystem& fs, const std::string& path, bool own_tokenizer,
                                  WeightStorage storage) {
  ASSIGN_OR_RETURN(const std::string text,
                   fs.ReadFile(JoinPath(path, "config.json"), kMaxConfigBytes));
  WeightSource source;
  ASSIGN_OR_RETURN(source.config, ParseHfConfig(text));
  ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::OpenFolder(fs, path));
  for (const TensorView& tensor : file.tensors()) {
    // Old checkpoints keep the RoPE frequencies; transformers computes its own.
    if (absl::EndsWith(tensor.name, ".rotary_emb.inv_freq")) continue;
    ASSIGN_OR_RETURN(const int64_t count, CountElements(tensor.shape));
    source.tensors[tensor.name] = {.shape = tensor.shape,
                                   .read =
                                       [&tensor, count](float* out) {
                                         return DequantizeToFloat(tensor.dtype, tensor.bytes, count,
                                                                  out);
                                       },
                                   .exact = ExactBlocksOf(tensor)};
  }
  RETURN_IF_ERROR(SettleTiedHead(source));
  Loaded loaded;
  ASSIGN_OR_RETURN(loaded.weights, ReadWeights(source, storage));
  const bool has_tokenizer =
      fs.Exists(JoinPath(path, "tokenizer.json")) || fs.Exists(JoinPath(path, "tokenizer.model"));
  if (own_tokenizer && has_tokenizer) {
    ASSIGN_OR_RETURN(loaded.tokenizer, ReadBaseTokenizer(fs, path));
  }
  return loaded;
}

absl::StatusOr<Loaded> LoadLlama2c(const MappedFile& file, WeightStorage storage) {
  ASSIGN_OR_RETURN(const WeightSource source, OpenLlama2c(file.bytes()));
  Loaded loaded;
  ASSIGN_OR_RETURN(loaded.weights, ReadWeights(source, storage));
  return loaded;
}

absl::StatusOr<Loaded> LoadBySource(const FileSystem& fs, const std::string& path,
                                    const LoadOptions& options, BaseSource& source) {
  const bool own_tokenizer = options.tokenizer_path.empty();
  if (fs.Exists(JoinPath(path, "config.json"))) {
    source = BaseSource::kHuggingFace;
    return LoadFolder(fs, path, own_tokenizer, options.storage);
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, fs.Map(path));
  const absl::Span<const uint8_t> bytes = file->bytes();
  if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0) {
    source = BaseSource::kGguf;
    return LoadGguf(fs, path, own_tokenizer, options.storage);
  }
  source = BaseSource::kLlama2c;
  return LoadLlama2c(*file, options.storage);
}

absl::StatusOr<BaseModel> Load(const FileSystem& fs, const std::string& path,
                               const LoadOptions& options) {
  BaseModel base;
  base.path = path;
  const bool rounds =
      options.storage != WeightStorage::kFp32 && options.storage != WeightStorage::kExact;
  if (rounds && options.fingerprint_weights) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights rounded to ", WeightStorageName(options.storage),
                     " have no fingerprint, which is of the file's values"));
  }
  ASSIGN_OR_RETURN(Loaded loaded, LoadBySource(fs, path, options, base.source));
  base.weights = std::move(loaded.weights);
  if (!options.tokenizer_path.empty()) {
    ASSIGN_OR_RETURN(loaded.tokenizer, ReadBaseTokenizer(fs, options.tokenizer_path));
  }
  base.tokenizer = loaded.tokenizer.tokenizer;
  const LlamaConfig& config = base.config();
  if (base.tokenizer != nullptr) {
    if (base.tokenizer->vocab_size() > config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("the tokenizer has ",
                                                     base.tokenizer->vocab_size(),
                                                     " ids, the model ", config.vocab_size));
    }
    base.chat_format = FindChatFormat(loaded.tokenizer, options.chat_format);
    // A name that is not one is the caller's mistake, not the model's.
    if (!options.chat_format.empty()) RETURN_IF_ERROR(base.chat_format.status());
  }
  base.shape_fingerprint = ShapeFingerprint(config);
  if (options.fingerprint_weights) {
    ASSIGN_OR_RETURN(base.weights_fingerprint, WeightsFingerprint(*base.weights));
  }
  return base;
}

}  // namespace

const LlamaConfig& BaseModel::config() const { return weights->config; }

const char* BaseSourceName(BaseSource source) {
  switch (source) {
    case BaseSource::kGguf:
      return "gguf";
    case BaseSource::kHuggingFace:
      return "hf";
    case BaseSource::kLlama2c:
      return "llama2c";
  }
  return "unknown";
}

absl::StatusOr<BaseModel> LoadBase(const FileSystem& fs, const std::string& path,
                                   const LoadOptions& options) {
  absl::StatusOr<BaseModel> base = CatchTorch("LoadBase", [&] { return Load(fs, path, options); });
  if (!base.ok()) return Annotate(base.status(), path);
  return base;
}

}  // namespace evolora
