#include <cstdio>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/file_system.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/init_torch.h"
#include "evolora/pipeline/base_store.h"
#include "options.h"
#include "output.h"

namespace evolora::cli {
namespace {

Json BaseJson(const StoredBase& base) {
  return Json{{"name", base.name},
              {"source", base.source},
              {"architecture", base.architecture},
              {"parameters", base.parameters},
              {"shape_fingerprint", base.shape_fingerprint},
              {"weights_fingerprint", base.weights_fingerprint},
              {"tokenizer", base.has_tokenizer},
              {"chat_format", base.chat_format}};
}

std::string Parameters(int64_t count) {
  return count >= 1'000'000 ? absl::StrFormat("%.1f M", static_cast<double>(count) / 1e6)
                            : absl::StrFormat("%.1f K", static_cast<double>(count) / 1e3);
}

void PrintBase(const GlobalOptions& global, const StoredBase& base) {
  if (global.json) return PrintJson(BaseJson(base));
  std::printf("base %s: %s, %s parameters, from %s\n", base.name.c_str(), base.architecture.c_str(),
              Parameters(base.parameters).c_str(), base.source.c_str());
  std::printf("  tokenizer            %s\n", base.has_tokenizer ? "yes" : "none: ids only");
  std::printf("  chat format          %s\n", base.chat_format.empty()
                                                 ? "none (name one with --chat-format)"
                                                 : base.chat_format.c_str());
  std::printf("  shape fingerprint    %s\n", base.shape_fingerprint.c_str());
  std::printf("  weights fingerprint  %s\n", base.weights_fingerprint.c_str());
}

absl::Status Add(const GlobalOptions& global, const AddBaseOptions& options) {
  RETURN_IF_ERROR(InitTorch(NumThreads(global)));
  ASSIGN_OR_RETURN(const StoredBase base, AddBase(PosixFileSystem(), global.home, options));
  PrintBase(global, base);
  return absl::OkStatus();
}

absl::Status List(const GlobalOptions& global) {
  ASSIGN_OR_RETURN(const std::vector<StoredBase> bases, ListBases(PosixFileSystem(), global.home));
  Table table(
      {"name", "architecture", "parameters", "source", "tokenizer", "chat format", "weights"});
  for (const StoredBase& base : bases) {
    if (global.json) PrintJson(BaseJson(base));
    table.Add({base.name, base.architecture, Parameters(base.parameters), base.source,
               base.has_tokenizer ? "yes" : "ids only", base.chat_format,
               base.weights_fingerprint.substr(0, 12)});
  }
  if (!global.json) std::printf("%s", table.ToText().c_str());
  return absl::OkStatus();
}

}  // namespace

void AddBaseCommand(CLI::App& app, GlobalOptions& global) {
  CLI::App* base = app.add_subcommand("base", "import base models and list them");
  base->require_subcommand(1);

  auto options = std::make_shared<AddBaseOptions>();
  CLI::App* add =
      base->add_subcommand("add", "import a GGUF file, a Hugging Face folder or a llama2.c file");
  add->add_option("path", options->path, "file or folder")->required();
  add->add_option("--name", options->name, "name of the base in this home")->required();
  add->add_option("--tokenizer", options->tokenizer_path,
                  "tokenizer.model, tokenizer.json or tokenizer .bin");
  add->add_option("--chat-format", options->chat_format,
                  "chatml, llama2, llama3, mistral or zephyr");
  add->callback([&global, options] { FinishCommand(Add(global, *options)); });

  CLI::App* list = base->add_subcommand("list", "list the imported bases");
  list->callback([&global] { FinishCommand(List(global)); });
}

}  // namespace evolora::cli
