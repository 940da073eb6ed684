#include "evolora/pipeline/base_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "evolora/core/json.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/chat_format.h"
#include "evolora/model/hf_folder.h"
#include "evolora/model/llama_config.h"

namespace evolora {
namespace {

constexpr char kDescription[] = "base.json";

std::string BasesDirectory(const std::string& home) { return JoinPath(home, "bases"); }
std::string BaseDirectory(const std::string& home, const std::string& name) {
  return JoinPath(BasesDirectory(home), name);
}

std::string FileName(const std::string& path) {
  const size_t slash = path.find_last_not_of('/') == std::string::npos
                           ? std::string::npos
                           : path.find_last_of('/', path.find_last_not_of('/'));
  std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  while (!name.empty() && name.back() == '/') name.pop_back();
  return name;
}

Json ToJson(const StoredBase& base) {
  return Json{{"format", "evolora-base-1"},
              {"name", base.name},
              {"source", base.source},
              {"architecture", base.architecture},
              {"parameters", base.parameters},
              {"shape_fingerprint", base.shape_fingerprint},
              {"weights_fingerprint", base.weights_fingerprint},
              {"has_tokenizer", base.has_tokenizer},
              {"chat_format", base.chat_format},
              {"model_path", base.model_path},
              {"tokenizer_path", base.tokenizer_path},
              {"chat_override", base.chat_override}};
}

absl::StatusOr<StoredBase> FromJson(const Json& json, const std::string& path) {
  JsonFields f(json, path);
  StoredBase base;
  if (f.String("format") != "evolora-base-1") f.Fail("format", "is not evolora-base-1");
  base.name = f.String("name");
  base.source = f.String("source");
  base.architecture = f.String("architecture");
  base.parameters = f.Integer("parameters", 1, int64_t{1} << 50);
  base.shape_fingerprint = f.String("shape_fingerprint");
  base.weights_fingerprint = f.String("weights_fingerprint");
  base.has_tokenizer = f.Bool("has_tokenizer");
  base.chat_format = f.String("chat_format");
  base.model_path = f.String("model_path");
  base.tokenizer_path = f.String("tokenizer_path");
  base.chat_override = f.String("chat_override");
  RETURN_IF_ERROR(f.Done());
  return base;
}

absl::StatusOr<StoredBase> ReadDescription(const FileSystem& files, const std::string& home,
                                           const std::string& name) {
  const std::string path = JoinPath(BaseDirectory(home, name), kDescription);
  ASSIGN_OR_RETURN(const std::string text, files.ReadFile(path, 1 << 20));
  ASSIGN_OR_RETURN(const Json json, ParseJson(text));
  return FromJson(json, path);
}

StoredBase Describe(const AddBaseOptions& options, const BaseModel& model) {
  StoredBase base{.name = options.name,
                  .source = BaseSourceName(model.source),
                  .architecture = model.config().architecture,
                  .parameters = CountParameters(model.config()),
                  .shape_fingerprint = model.shape_fingerprint,
                  .weights_fingerprint = model.weights_fingerprint,
                  .has_tokenizer = model.tokenizer != nullptr,
                  .chat_override = options.chat_format};
  if (model.chat_format.ok()) base.chat_format = ChatFamilyName(model.chat_format->family);
  base.model_path = JoinPath("model", FileName(options.path));
  if (!options.tokenizer_path.empty()) {
    base.tokenizer_path = JoinPath("tokenizer", FileName(options.tokenizer_path));
  }
  return base;
}

absl::Status CopyFile(FileSystem& files, const std::string& from, const std::string& to) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> map, files.Map(from));
  const absl::Span<const uint8_t> bytes = map->bytes();
  return files.WriteFileAtomic(
      to, absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()), 0444);
}

// The files of a Hugging Face folder that loading may read; nothing else is copied.
bool IsModelFile(const std::string& name) {
  return absl::EndsWith(name, ".safetensors") || absl::EndsWith(name, ".json") ||
         absl::EndsWith(name, ".model") || absl::EndsWith(name, ".jinja");
}

// A file, or the model files of a folder.
absl::Status Copy(FileSystem& files, const std::string& from, const std::string& to) {
  const absl::StatusOr<std::vector<std::string>> names = files.ListDirectory(from);
  if (!names.ok()) {
    RETURN_IF_ERROR(files.CreateDirectories(to.substr(0, to.find_last_of('/'))));
    return CopyFile(files, from, to);
  }
  RETURN_IF_ERROR(files.CreateDirectories(to));
  for (const std::string& name : *names) {
    if (IsModelFile(name)) {
      RETURN_IF_ERROR(CopyFile(files, JoinPath(from, name), JoinPath(to, name)));
    }
  }
  return absl::OkStatus();
}

absl::Status StoreFiles(FileSystem& files, const std::string& home, const AddBaseOptions& options,
                        const StoredBase& base) {
  const std::string target = BaseDirectory(home, base.name);
  const std::string partial = target + ".partial";
  RETURN_IF_ERROR(files.RemoveTree(partial));
  RETURN_IF_ERROR(files.CreateDirectories(partial));
  RETURN_IF_ERROR(Copy(files, options.path, JoinPath(partial, base.model_path)));
  if (!base.tokenizer_path.empty()) {
    RETURN_IF_ERROR(Copy(files, options.tokenizer_path, JoinPath(partial, base.tokenizer_path)));
    // A tokenizer.json is read together with its neighbour.
    const std::string config = "tokenizer_config.json";
    const std::string folder =
        options.tokenizer_path.find('/') == std::string::npos
            ? "."
            : options.tokenizer_path.substr(0, options.tokenizer_path.find_last_of('/'));
    if (absl::EndsWith(options.tokenizer_path, ".json") && files.Exists(JoinPath(folder, config))) {
      RETURN_IF_ERROR(CopyFile(files, JoinPath(folder, config),
                               JoinPath(partial, JoinPath("tokenizer", config))));
    }
  }
  RETURN_IF_ERROR(
      files.WriteFileAtomic(JoinPath(partial, kDescription), CanonicalJson(ToJson(base)) + "\n"));
  return files.Rename(partial, target);
}

}  // namespace

absl::StatusOr<StoredBase> AddBase(FileSystem& files, const std::string& home,
                                   const AddBaseOptions& options) {
  if (!IsSlotName(options.name)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--name '", options.name, "': 1 to 48 of a-z 0-9 . _ -, first a letter or digit"));
  }
  ASSIGN_OR_RETURN(const BaseModel model, LoadBase(files, options.path,
                                                   {.tokenizer_path = options.tokenizer_path,
                                                    .chat_format = options.chat_format,
                                                    .storage = WeightStorage::kExact}));
  const StoredBase base = Describe(options, model);
  RETURN_IF_ERROR(files.CreateDirectories(BasesDirectory(home)));
  if (files.Exists(BaseDirectory(home, base.name))) {
    ASSIGN_OR_RETURN(const StoredBase present, ReadDescription(files, home, base.name));
    if (present.weights_fingerprint == base.weights_fingerprint &&
        present.chat_format == base.chat_format && present.tokenizer_path == base.tokenizer_path) {
      return present;
    }
    return absl::AlreadyExistsError(
        absl::StrCat("base '", base.name, "' stands for other weights or another tokenizer (",
                     present.weights_fingerprint.substr(0, 12), "); choose another name"));
  }
  RETURN_IF_ERROR(StoreFiles(files, home, options, base));
  return base;
}

absl::StatusOr<std::vector<StoredBase>> ListBases(const FileSystem& files,
                                                  const std::string& home) {
  std::vector<StoredBase> bases;
  if (!files.Exists(BasesDirectory(home))) return bases;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files.ListDirectory(BasesDirectory(home)));
  for (const std::string& name : names) {
    if (absl::EndsWith(name, ".partial")) continue;
    ASSIGN_OR_RETURN(StoredBase base, ReadDescription(files, home, name));
    bases.push_back(std::move(base));
  }
  return bases;
}

absl::StatusOr<LoadedBase> LoadStoredBase(FileSystem& files, const std::string& home,
                                          const std::string& name, WeightStorage storage) {
  const std::string directory = BaseDirectory(home, name);
  if (!files.Exists(JoinPath(directory, kDescription))) {
    ASSIGN_OR_RETURN(const std::vector<StoredBase> bases, ListBases(files, home));
    std::vector<std::string> names;
    for (const StoredBase& base : bases) names.push_back(base.name);
    return absl::NotFoundError(
        absl::StrCat("no base '", name, "' in ", home, "; there ",
                     names.empty() ? std::string("is none: import one with evolora base add")
                                   : absl::StrCat("are: ", absl::StrJoin(names, ", "))));
  }
  LoadedBase loaded;
  ASSIGN_OR_RETURN(loaded.stored, ReadDescription(files, home, name));
  LoadOptions options{
      .chat_format = loaded.stored.chat_override, .fingerprint_weights = false, .storage = storage};
  if (!loaded.stored.tokenizer_path.empty()) {
    options.tokenizer_path = JoinPath(directory, loaded.stored.tokenizer_path);
  }
  ASSIGN_OR_RETURN(loaded.model,
                   LoadBase(files, JoinPath(directory, loaded.stored.model_path), options));
  if (loaded.model.shape_fingerprint != loaded.stored.shape_fingerprint) {
    return absl::DataLossError(
        absl::StrCat("base '", name, "': its files changed since the import"));
  }
  loaded.model.weights_fingerprint = loaded.stored.weights_fingerprint;
  return loaded;
}

absl::StatusOr<std::map<std::string, std::string>> StoredTokenizerFiles(FileSystem& files,
                                                                        const std::string& home,
                                                                        const StoredBase& base) {
  const std::string directory = BaseDirectory(home, base.name);
  const std::string tokenizer =
      base.tokenizer_path.empty() ? "" : JoinPath(directory, base.tokenizer_path);
  return TokenizerFiles(files, JoinPath(directory, base.model_path), tokenizer);
}

}  // namespace evolora
