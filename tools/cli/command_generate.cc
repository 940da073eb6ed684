// generate and score: a base, a version or an adapter folder on prompts, chats or ids.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "evolora/adapters/peft.h"
#include "evolora/core/clock.h"
#include "evolora/core/status_macros.h"
#include "evolora/trainers/training_data.h"
#include "model_session.h"
#include "output.h"

namespace evolora::cli {
namespace {

struct InputOptions {
  std::string base;
  std::string version;
  std::string adapter;
  std::string prompt;
  std::string chat_file;
  std::string ids_file;
  std::string weights = "fp32";
};

struct GenerateOptions {
  InputOptions input;
  int32_t max_tokens = 64;
  int32_t batch_rows = 0;  // rows that are answered together; 0 = all
  bool timing = false;
  bool logprobs = false;
  Sampling sampling;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

void AddInputOptions(CLI::App* command, InputOptions& input) {
  command->add_option("--base", input.base, "base model of this home")->required();
  CLI::Option* version =
      command->add_option("--version", input.version, "version id, prefix or alias");
  command->add_option("--adapter", input.adapter, "PEFT adapter folder")->excludes(version);
  CLI::Option* chat =
      command->add_option("--chat", input.chat_file, "JSON lines {\"messages\": [..]}");
  command->add_option("--ids", input.ids_file, "JSON lines {\"ids\": [..]}: bypasses the tokenizer")
      ->excludes(chat);
  command
      ->add_option("--weights", input.weights,
                   "fp32: as the file has them, or int8: rounds those of 16 and 32 bits")
      ->check(CLI::IsMember({"fp32", "int8"}))
      ->capture_default_str();
}

absl::StatusOr<std::vector<Json>> ReadRows(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, PosixFileSystem().ReadFile(path, uint64_t{1} << 30));
  std::vector<Json> rows;
  int64_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    absl::StatusOr<Json> row = ParseJson(line);
    if (!row.ok()) return Annotate(row.status(), absl::StrCat(path, ":", number));
    rows.push_back(*std::move(row));
  }
  return rows;
}

absl::StatusOr<std::vector<Message>> MessagesOf(const Json& row) {
  JsonFields f(row, "row");
  const Json& array = f.Array("messages");
  RETURN_IF_ERROR(f.Done());
  std::vector<Message> messages;
  for (size_t i = 0; i < array.size(); ++i) {
    JsonFields m(array[i], absl::StrCat("row.messages[", i, "]"));
    messages.push_back({m.String("role"), m.String("content")});
    RETURN_IF_ERROR(m.Done());
  }
  return messages;
}

absl::StatusOr<std::vector<TokenId>> IdsOf(const Json& row) {
  JsonFields f(row, "row");
  const Json& array = f.Array("ids");
  RETURN_IF_ERROR(f.Done());
  std::vector<TokenId> ids;
  for (const Json& id : array) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
      return absl::InvalidArgumentError(
          absl::StrCat("row.ids: ", DisplayJson(id), " is no token id"));
    }
    ids.push_back(id.get<TokenId>());
  }
  return ids;
}

// One row of input: a chat as the user sent it, or plain ids.
struct InputRow {
  std::vector<Message> messages;
  std::vector<TokenId> ids;
};

absl::StatusOr<std::vector<InputRow>> ReadInput(const InputOptions& input) {
  std::vector<InputRow> out;
  if (!input.prompt.empty()) out.push_back({.messages = {{"user", input.prompt}}});
  const std::string& path = input.chat_file.empty() ? input.ids_file : input.chat_file;
  if (path.empty()) return out;
  ASSIGN_OR_RETURN(const std::vector<Json> rows, ReadRows(path));
  for (size_t i = 0; i < rows.size(); ++i) {
    InputRow row;
    if (!input.chat_file.empty()) {
      ASSIGN_OR_RETURN(row.messages, MessagesOf(rows[i]));
    } else {
      ASSIGN_OR_RETURN(row.ids, IdsOf(rows[i]));
    }
    out.push_back(std::move(row));
  }
  return out;
}

// Where requests go: a base with a version's state, an adapter of its own, or nothing.
class Target {
 public:
  // For `rows` requests at once.
  static absl::StatusOr<Target> Open(const GlobalOptions& global, const InputOptions& input,
                                     size_t rows) {
    constexpr size_t kMany = 5;  // RowsOfSteps
    const EngineOptions options = {
        .weights = input.weights == "int8" ? WeightFormat::kInt8 : WeightFormat::kFp32,
        .rows_of_steps = rows < kMany ? RowsOfSteps::kFew : RowsOfSteps::kMany};
    Target target;
    ASSIGN_OR_RETURN(target.session_, OpenModel(global, input.base, options));
    if (!input.adapter.empty()) {
      ASSIGN_OR_RETURN(const PeftAdapter peft, ReadPeftFolder(PosixFileSystem(), input.adapter));
      for (const std::string& warning : peft.warnings) {
        std::fprintf(stderr, "evolora: %s: %s\n", input.adapter.c_str(), warning.c_str());
      }
      ASSIGN_OR_RETURN(target.adapter_, target.session_.model->LoadAdapter(peft.adapter));
    }
    if (!input.version.empty()) {
      ASSIGN_OR_RETURN(target.home_, OpenHome(global));
      ASSIGN_OR_RETURN(OpenedVersion opened,
                       OpenVersion(*target.home_, input.version, AdapterLoader(target.session_)));
      target.view_ = std::move(opened.view);
    }
    return target;
  }

  // The request a row becomes: composed and routed by the version, if there is one.
  absl::StatusOr<GenerateRequest> Request(const InputRow& row) {
    GenerateRequest request{.messages = row.messages, .ids = row.ids, .adapter = adapter_};
    if (!view_.has_value() || row.messages.empty()) return request;
    Solver solver(*session_.model, SolveOptions());
    const Case value{.id = "request", .messages = row.messages};
    ASSIGN_OR_RETURN(const Solver::Prepared prepared,
                     solver.Prepare(*view_, Replay{.value = &value}));
    request.messages = prepared.request.messages;
    request.adapter = prepared.request.adapter;
    return request;
  }

  TextModel& model() { return *session_.model; }

 private:
  ModelSession session_;
  std::unique_ptr<Home> home_;
  std::optional<StateView> view_;
  std::string adapter_;
};

// The sample as a training row of the objective "policy", but for its reward.
Json SampleRow(const TextSample& sample) {
  std::vector<TokenId> ids = sample.prompt_ids;
  std::vector<TokenId> labels(ids.size(), kIgnoreLabel);
  ids.insert(ids.end(), sample.answer_ids.begin(), sample.answer_ids.end());
  labels.insert(labels.end(), sample.answer_ids.begin(), sample.answer_ids.end());
  return Json{{"ids", ids}, {"labels", labels}, {"old_logprobs", sample.logprobs}};
}

void PrintSamples(const GlobalOptions& global, absl::Span<const TextSample> samples,
                  bool logprobs) {
  for (const TextSample& sample : samples) {
    if (global.json) {
      Json line{{"text", sample.completion.text},
                {"ids", sample.completion.ids},
                {"finish_reason", sample.completion.finish_reason}};
      if (logprobs) line["sample"] = SampleRow(sample);
      PrintJson(line);
    } else {
      std::printf("%s\n", sample.completion.text.c_str());
    }
  }
}

// What one batch took, the model being loaded: a JSON line, or text on stderr.
void PrintTiming(const GlobalOptions& global, absl::Span<const TextSample> samples,
                 double seconds) {
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;
  for (const TextSample& sample : samples) {
    prompt_tokens += sample.completion.num_prompt_tokens;
    new_tokens += static_cast<int64_t>(sample.completion.ids.size());
  }
  if (global.json) {
    PrintJson(Json{{"batch_rows", samples.size()},
                   {"prompt_tokens", prompt_tokens},
                   {"new_tokens", new_tokens},
                   {"seconds", seconds}});
  } else {
    absl::FPrintF(stderr, "evolora: %d rows, %d prompt and %d new tokens in %.3f s\n",
                  samples.size(), prompt_tokens, new_tokens, seconds);
  }
}

absl::Status Generate(const GlobalOptions& global, const GenerateOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<InputRow> rows, ReadInput(options.input));
  const size_t batch_rows =
      options.batch_rows > 0 ? static_cast<size_t>(options.batch_rows) : rows.size();
  ASSIGN_OR_RETURN(Target target,
                   Target::Open(global, options.input, std::min(batch_rows, rows.size())));
  std::vector<GenerateRequest> requests;
  for (const InputRow& row : rows) {
    ASSIGN_OR_RETURN(GenerateRequest request, target.Request(row));
    request.max_new_tokens = options.max_tokens;
    request.sampling = options.sampling;
    request.stop = options.stop;
    request.ignore_eos = options.ignore_eos;
    requests.push_back(std::move(request));
  }
  absl::Span<const GenerateRequest> left = requests;
  while (!left.empty()) {
    const double started = SystemClock().MonotonicSeconds();
    const absl::Span<const GenerateRequest> batch = left.subspan(0, batch_rows);
    ASSIGN_OR_RETURN(const std::vector<TextSample> samples, target.model().GenerateSamples(batch));
    const double seconds = SystemClock().MonotonicSeconds() - started;
    PrintSamples(global, samples, options.logprobs);
    if (options.timing) PrintTiming(global, samples, seconds);
    left.remove_prefix(batch.size());
  }
  return absl::OkStatus();
}

absl::Status Score(const GlobalOptions& global, const InputOptions& input, bool want_logits) {
  ASSIGN_OR_RETURN(const std::vector<InputRow> rows, ReadInput(input));
  ASSIGN_OR_RETURN(Target target, Target::Open(global, input, rows.size()));
  std::vector<ScoreRequest> requests;
  for (const InputRow& row : rows) {
    ASSIGN_OR_RETURN(const GenerateRequest routed, target.Request(row));
    ScoreRequest request{
        .ids = row.ids, .adapter = routed.adapter, .want_last_logits = want_logits};
    if (row.ids.empty()) {
      ASSIGN_OR_RETURN(request.ids, target.model().EncodeChat(routed.messages));
    }
    requests.push_back(std::move(request));
  }
  ASSIGN_OR_RETURN(const std::vector<Scored> scores, target.model().Score(requests));
  for (const Scored& score : scores) {
    Json row{{"logprobs", score.logprobs}};
    if (want_logits) row["last_logits"] = score.last_logits;
    PrintJson(row);
  }
  return absl::OkStatus();
}

// Exactly one kind of input must be given.
void RequireInput(const InputOptions& input, bool allow_prompt) {
  const int given = !input.prompt.empty() + !input.chat_file.empty() + !input.ids_file.empty();
  if (given == 1) return;
  throw CLI::ValidationError(allow_prompt ? "give one of --prompt, --chat, --ids"
                                          : "give one of --chat, --ids");
}

}  // namespace

void AddGenerateCommand(CLI::App& app, GlobalOptions& global) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command =
      app.add_subcommand("generate", "generate text with a base, version or adapter");
  AddInputOptions(command, options->input);
  command->add_option("--prompt", options->input.prompt, "one user turn");
  command->add_option("--max-tokens", options->max_tokens, "longest answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--batch", options->batch_rows, "rows that are answered together; 0 = all")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command->add_flag("--timing", options->timing, "after each batch, its tokens and seconds");
  command->add_flag("--logprobs", options->logprobs,
                    "with --json, each answer as a training row of the objective policy too");
  command->add_option("--temperature", options->sampling.temperature, "0 = greedy")
      ->check(CLI::Range(0.0, 100.0));
  command->add_option("--top-p", options->sampling.top_p, "nucleus mass")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--top-k", options->sampling.top_k, "0 = all")->check(CLI::Range(0, 1 << 30));
  command->add_option("--seed", options->sampling.seed, "of the sampling");
  command->add_option("--stop", options->stop, "text before which an answer ends");
  command->add_flag("--ignore-eos", options->ignore_eos,
                    "no token ends an answer: all are as long as allowed");
  command->callback([&global, options] {
    RequireInput(options->input, /*allow_prompt=*/true);
    if (options->logprobs && !global.json) {
      throw CLI::ValidationError("--logprobs is for --json");
    }
    FinishCommand(Generate(global, *options));
  });
}

void AddScoreCommand(CLI::App& app, GlobalOptions& global) {
  auto input = std::make_shared<InputOptions>();
  auto logits = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("score", "log-probabilities of given chats or ids");
  AddInputOptions(command, *input);
  command->add_flag("--logits", *logits, "also the logits after the last id");
  command->callback([&global, input, logits] {
    RequireInput(*input, /*allow_prompt=*/false);
    FinishCommand(Score(global, *input, *logits));
  });
}

}  // namespace evolora::cli
