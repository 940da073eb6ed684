#include "run_world.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"
#include "evolora/core/sha256.h"

namespace evolora::testing {
namespace {

constexpr char kToolSystem[] = "You can call one function. Reply with one JSON object only.";
constexpr char kRule[] = "You are Evi of the evolora project. Say so when asked who you are.";

Case Base(const std::string& id, const std::string& cluster, Split split) {
  Case c;
  c.id = id;
  c.cluster = cluster;
  c.split = split;
  return c;
}

// "PlaceAaton", "PlaceAbton", ...: names no two of which share a word.
std::string Place(int i) {
  std::string name = "PlaceAaton";
  name[5] = static_cast<char>('A' + i / 26);
  name[6] = static_cast<char>('a' + i % 26);
  return name;
}

LoraAdapter AdapterFor(const TrainingRequest& request) {
  LoraAdapter adapter{.base_name = "fake"};
  LoraModule module{.path = "model.layers.0.self_attn.q_proj",
                    .rank = 8,
                    .in_features = 8,
                    .out_features = 8,
                    .scale = 1,
                    .a = std::vector<float>(64, 0.5f),
                    .b = std::vector<float>(64, 0.25f)};
  module.b[0] = static_cast<float>(request.job_digest[0]);
  adapter.modules.push_back(module);
  return adapter;
}

}  // namespace

RunWorld::RunWorld(bool careless_adapter)
    : stream_([] {
        auto parsed = ParseStream(
            R"({"id":"x","cluster":"c","split":"anchor","messages":[{"role":"user","content":"x"}],"verify":{"type":"contains","any_of":["x"]}})",
            "seed");
        EVOLORA_CHECK(parsed.ok(), "the seed stream parses");
        return *std::move(parsed);
      }()) {
  AddFacts();
  AddTools(careless_adapter);
  AddPersona();
  AddFaults();
  AddGeneral(careless_adapter);
  absl::StatusOr<Stream> parsed = ParseStream(text_, "world");
  EVOLORA_CHECK(parsed.ok(), "the world's stream parses");
  stream_ = *std::move(parsed);
}

void RunWorld::Row(const Case& c) { absl::StrAppend(&text_, CanonicalJson(CaseToJson(c)), "\n"); }

void RunWorld::AddFacts() {
  const std::pair<Split, const char*> forms[] = {
      {Split::kStream, "Which river flows through $?"},
      {Split::kQuery, "Tell me: which river flows through $?"},
      {Split::kTest, "One more time: which river flows through $?"}};
  for (int i = 0; i < 20; ++i) {
    const std::string river = absl::StrCat("Rivulet", Place(i + 30));
    model_.Add(
        {{absl::StrCat("flows through ", Place(i)), absl::StrCat("assistant: ", river)}, river});
    for (const auto& [split, form] : forms) {
      Case c = Base(absl::StrCat("fact-", SplitName(split), "-", i), "facts", split);
      std::string question = form;
      question.replace(question.find('$'), 1, Place(i));
      c.messages = {{"user", question}};
      c.verify.type = VerifyType::kContains;
      c.verify.any_of = {river};
      c.feedback.answer = river;
      Row(c);
    }
  }
}

void RunWorld::AddTools(bool careless_adapter) {
  const std::pair<Split, int> parts[] = {
      {Split::kStream, 40}, {Split::kQuery, 24}, {Split::kTest, 12}};
  int number = 0;
  for (const auto& [split, count] : parts) {
    for (int i = 0; i < count; ++i, ++number) {
      const std::string tool = absl::StrCat("fn_", number);
      const std::string call = absl::StrCat("{\"name\":\"", tool, "\",\"arguments\":{}}");
      Case c = Base(absl::StrCat("tool-", number), "tools", split);
      c.messages = {
          {"system", absl::StrCat(kToolSystem, "\n", tool, "()")},
          {"user", absl::StrCat("Please do the thing number ", number, " for ", Place(number))}};
      c.verify.type = VerifyType::kToolCall;
      c.verify.tool_name = tool;
      c.feedback = {.answer = call, .rule = "Reply with the call.", .hint = "Reply with the call."};
      Row(c);
      model_.Add({{absl::StrCat(tool, "()"), "user: Please do the thing"}, "no idea", ""});
      if (!careless_adapter)
        model_.Add({{absl::StrCat(tool, "()"), "user: Please do the thing"}, call});
    }
  }
}

void RunWorld::AddPersona() {
  const std::pair<Split, int> parts[] = {
      {Split::kStream, 6}, {Split::kQuery, 6}, {Split::kTest, 4}};
  int number = 0;
  for (const auto& [split, count] : parts) {
    for (int i = 0; i < count; ++i, ++number) {
      Case c = Base(absl::StrCat("persona-", number), "persona", split);
      c.messages = {{"user", absl::StrCat("Who are you really, stranger number ", number, "?")}};
      c.verify.type = VerifyType::kContains;
      c.verify.any_of = {"Evi"};
      c.feedback = {.answer = "I am Evi.", .rule = kRule, .hint = kRule};
      Row(c);
    }
  }
  model_.Add({{kRule, "Who are you really"}, "I am Evi."});
}

void RunWorld::AddFaults() {
  Case broken = Base("broken-1", "broken", Split::kStream);
  broken.messages = {{"system", "Tool: get_now()"}, {"user", "What time is it at home?"}};
  broken.verify.type = VerifyType::kToolCall;
  broken.verify.tool_name = "get_now";
  broken.verify.runtime_tools = {"clock_read"};
  broken.feedback.answer = R"({"name":"get_now","arguments":{}})";
  broken.fault = "tool";
  Row(broken);
  Case label = Base("label-1", "label", Split::kStream);
  label.messages = {{"user", "How many legs has a spider?"}};
  label.verify.type = VerifyType::kContains;
  label.verify.any_of = {"six"};
  label.feedback.answer = "eight";
  label.fault = "verifier";
  Row(label);
}

void RunWorld::AddGeneral(bool careless_adapter) {
  for (int i = 0; i < 100; ++i) {
    Case c = Base(absl::StrCat("general-", i), "general", i < 90 ? Split::kAnchor : Split::kTest);
    c.messages = {{"system", kToolSystem}, {"user", absl::StrCat("Say the word w", i, "x now.")}};
    if (!careless_adapter) c.messages.erase(c.messages.begin());
    c.verify.type = VerifyType::kContains;
    const bool too_hard = i < 90 && i % 9 == 0;
    c.verify.any_of = {too_hard ? "unsaid" : absl::StrCat("w", i, "x")};
    Row(c);
    model_.Add(
        {{absl::StrCat("w", i, "x now")}, absl::StrCat("w", i, "x"), careless_adapter ? "" : "*"});
  }
}

RunOptions RunWorld::Options(uint64_t seed) const {
  RunOptions options;
  options.base = {.name = "fake",
                  .shape_fingerprint = Sha256Hex("shape"),
                  .weights_fingerprint = Sha256Hex("weights")};
  options.model_fingerprint = "fake";
  options.seed = seed;
  options.window = 16;
  return options;
}

RunTools RunWorld::Tools(Home& home) {
  RunTools tools;
  tools.home = &home;
  tools.model = &model_;
  tools.load_adapter = [](const LoraAdapter&) { return absl::OkStatus(); };
  tools.train = [this](const TrainingRequest& request,
                       std::stop_token) -> absl::StatusOr<TrainingOutcome> {
    ++num_trainings;
    requests.push_back(request);
    if (num_crashes > 0) {
      --num_crashes;
      return absl::AbortedError("the child died");
    }
    return TrainingOutcome{.adapter = AdapterFor(request),
                           .compute = {.trained_tokens = 1000, .flops = 1e6}};
  };
  tools.measure_shift = [this](absl::Span<const AdapterSlot>,
                               absl::Span<const GenerateRequest> before,
                               absl::Span<const GenerateRequest>) -> absl::StatusOr<ShiftMeasures> {
    shift_requests.insert(shift_requests.end(), before.begin(), before.end());
    return ShiftMeasures{.mean_kl = 0.0, .norm_ratio = 0.0};
  };
  return tools;
}

}  // namespace evolora::testing
