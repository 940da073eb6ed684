// `evolora train` as a process, on the 260K-parameter model of tests/fixtures.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/core/file_system.h"
#include "evolora/core/json.h"
#include "evolora/core/random.h"
#include "evolora/data/array_file.h"
#include "program.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::Program;
using ::evolora::testing::SourcePath;
using ::evolora::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kSteps = 60;

class TrainCommand : public ::testing::Test {
 protected:
  static std::string Fixture(const std::string& name) {
    return SourcePath("tests/fixtures/stories260K/" + name);
  }

  void SetUp() override {
    const auto [code, error] = Run({"base", "add", Fixture("stories260K.bin"), "--name", "tiny",
                                    "--tokenizer", Fixture("tok512.model")});
    ASSERT_EQ(code, 0) << error;
    Random random(3);
    std::string rows;
    for (int i = 0; i < 24; ++i) {  // five epochs of 12 steps of 2
      absl::StrAppend(&rows, "{\"prompt\":\"Story ", random.NextBelow(1000),
                      ": once upon\",\"completion\":\" a time there was a ",
                      i % 2 == 0 ? "dog" : "little bird", ".\"}\n");
    }
    Write("rows.jsonl", rows);
    Write("recipe.json",
          R"({"rank": 4, "rows_per_step": 2, "epochs": 5, "checkpoint_every_steps": 7})");
  }

  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  void Write(const std::string& name, const std::string& bytes) {
    ASSERT_TRUE(PosixFileSystem().WriteFileAtomic(Path(name), bytes).ok());
  }
  std::string Read(const std::string& name) const {
    return PosixFileSystem().ReadFile(Path(name), 1 << 24).value_or("");
  }

  std::vector<std::string> Arguments(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(),
                     {"--home", folder_.path() + "/home", "--threads", "1", "--json"});
    return arguments;
  }
  // Without the arguments that Arguments() adds.
  std::vector<std::string> Train(const std::string& out, const std::string& rows = "rows.jsonl",
                                 const std::string& recipe = "recipe.json") const {
    return {"train",    "--base",     "tiny",  "--data",  Path(rows),
            "--recipe", Path(recipe), "--out", Path(out), "--resume"};
  }
  std::pair<int, std::string> Run(const std::vector<std::string>& arguments) const {
    Program program(folder_.path(), Arguments(arguments));
    const int code = program.Wait();
    return {code, program.Stderr()};
  }

  // The losses in a run's metrics; each step once, in order.
  std::vector<double> Losses(const std::string& out) const {
    const auto file = ReadArrayFile(PosixFileSystem(), Path(out + ".work/metrics/metrics.h5"));
    if (!file.ok()) return {};
    const auto steps = *file->Values<int64_t>("step");
    for (size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i], static_cast<int64_t>(i) + 1);
    const auto losses = *file->Values<double>("loss");
    return {losses.begin(), losses.end()};
  }

  TempDir folder_;
};

TEST_F(TrainCommand, KilledAtAnyStepAndResumedItWritesTheBytesOfTheUnbrokenRun) {
  ASSERT_EQ(Run(Train("unbroken")).first, 0);
  ASSERT_EQ(Losses("unbroken").size(), static_cast<size_t>(kSteps));
  int kills = 0;
  for (const int64_t last : {1, 6, 8, 15, 22, 29, 37, 50}) {  // each goes on from its predecessor
    SCOPED_TRACE(last);
    Program program(folder_.path(), Arguments(Train("broken")));
    while (const auto line = program.ReadLine()) {
      ASSERT_OK_AND_ASSIGN(const Json step, ParseJson(*line));
      if (step.value("step", int64_t{0}) < last) continue;
      program.Kill();
      ++kills;
      break;
    }
  }
  EXPECT_GE(kills, 4);  // a quick child may be at its end before it is killed
  if (!PosixFileSystem().Exists(Path("broken"))) {
    ASSERT_EQ(Run(Train("broken")).first, 0);
  }
  const std::string weights = "/adapter_model.safetensors", config = "/adapter_config.json";
  ASSERT_FALSE(Read("unbroken" + weights).empty());
  EXPECT_EQ(Read("broken" + weights), Read("unbroken" + weights));
  EXPECT_EQ(Read("broken" + config), Read("unbroken" + config));
  EXPECT_EQ(Losses("broken"), Losses("unbroken"));
}

TEST_F(TrainCommand, AListOfJobsKilledAndResumedWritesWhatEachJobWritesAlone) {
  Write("other.json", R"({"rank": 3, "rows_per_step": 3, "epochs": 4, "learning_rate": 1e-3,
      "target_modules": ["q_proj", "down_proj"], "checkpoint_every_steps": 4})");
  Write("bad.json", R"({"rank": 40})");  // keys are 32 wide
  const auto job = [&](const std::string& recipe, const std::string& out) {
    return CanonicalJson(
               Json{{"data", Path("rows.jsonl")}, {"recipe", Path(recipe)}, {"out", Path(out)}}) +
           "\n";
  };
  Write("jobs.jsonl", job("recipe.json", "a") + job("bad.json", "b") + job("other.json", "c") +
                          job("other.json", "d"));
  const std::vector<std::string> list = {
      "train", "--base", "tiny", "--jobs", Path("jobs.jsonl"), "--resume", "--max-adapters", "2"};
  for (const int64_t lines : {9, 40, 30}) {
    Program program(folder_.path(), Arguments(list));
    for (int64_t i = 0; i < lines && program.ReadLine(); ++i) continue;
    program.Kill();
  }
  const auto [code, error] = Run(list);
  EXPECT_EQ(code, 1);
  EXPECT_THAT(error, AllOf(HasSubstr(Path("b") + ": "), HasSubstr("rank 40 exceeds layer"),
                           HasSubstr("1 of 4 jobs failed")));
  EXPECT_FALSE(PosixFileSystem().Exists(Path("b")));
  ASSERT_EQ(Run(Train("alone-a")).first, 0);
  ASSERT_EQ(Run(Train("alone-c", "rows.jsonl", "other.json")).first, 0);
  const std::string weights = "/adapter_model.safetensors";
  ASSERT_FALSE(Read("alone-a" + weights).empty());
  EXPECT_EQ(Read("a" + weights), Read("alone-a" + weights));
  EXPECT_EQ(Read("c" + weights), Read("alone-c" + weights));
  EXPECT_EQ(Read("d" + weights), Read("alone-c" + weights));
  EXPECT_EQ(Losses("a"), Losses("alone-a"));
  EXPECT_EQ(Losses("c"), Losses("alone-c"));
}

TEST_F(TrainCommand, JobsOnTheDevicePathWriteWhatEachWritesAlone) {
  Write("device.json", R"({"rank": 3, "rows_per_step": 3, "epochs": 2, "path": "device"})");
  const auto job = [&](const std::string& out) {
    return CanonicalJson(Json{
               {"data", Path("rows.jsonl")}, {"recipe", Path("device.json")}, {"out", Path(out)}}) +
           "\n";
  };
  Write("jobs.jsonl", job("a") + job("b"));
  const std::vector<std::string> list = {"train", "--base", "tiny", "--jobs", Path("jobs.jsonl")};
  ASSERT_EQ(Run(list).first, 0);
  ASSERT_EQ(Run(Train("alone", "rows.jsonl", "device.json")).first, 0);
  const std::string weights = "/adapter_model.safetensors";
  ASSERT_FALSE(Read("alone" + weights).empty());
  EXPECT_EQ(Read("a" + weights), Read("alone" + weights));
  EXPECT_EQ(Read("b" + weights), Read("alone" + weights));
  std::vector<std::string> elsewhere = list;
  elsewhere.insert(elsewhere.end(), {"--device", "tpu"});
  EXPECT_THAT(Run(elsewhere).second, HasSubstr("device 'tpu' is not one of"));
}

TEST_F(TrainCommand, ASweepWritesTheBestOfItsRecipesAndTellsOfAll) {
  std::vector<std::string> arguments = Train("best");
  arguments.insert(arguments.end(), {"--sweep", "learning_rate=1e-6,1e-3", "--sweep", "rank=4,40",
                                     "--held-out-share", "0.25"});
  Program program(folder_.path(), Arguments(arguments));
  std::vector<Json> trials;
  while (const auto line = program.ReadLine()) {
    ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(*line));
    if (json.contains("held_out_losses")) trials.push_back(json);
  }
  ASSERT_EQ(program.Wait(), 0) << program.Stderr();
  ASSERT_EQ(trials.size(), 4u);
  EXPECT_EQ(trials[0]["trial"], "learning_rate=1e-06,rank=4");
  int best = 0, failed = 0;
  for (const Json& trial : trials) {
    if (trial["best"].get<bool>()) {
      ++best;
      EXPECT_THAT(trial["trial"].get<std::string>(), HasSubstr("learning_rate=0.001"));
      EXPECT_EQ(trial["held_out_losses"].size(), 3u);
    }
    if (!trial["error"].get<std::string>().empty()) ++failed;
  }
  EXPECT_EQ(best, 1);
  EXPECT_EQ(failed, 2);  // keys are 32 wide
  EXPECT_FALSE(Read("best/adapter_model.safetensors").empty());
  EXPECT_FALSE(Read("best.work/learning_rate=0.001,rank=4/metrics/metrics.h5").empty());
}

TEST_F(TrainCommand, TheSecondProcessOnAWorkFolderIsRefusedWithThePidOfTheFirst) {
  Write("long.json", R"({"rank": 4, "rows_per_step": 2, "epochs": 10000})");
  Program first(folder_.path(), Arguments(Train("adapter", "rows.jsonl", "long.json")));
  ASSERT_TRUE(first.ReadLine().has_value());  // it trains
  const auto [code, error] = Run(Train("adapter", "rows.jsonl", "long.json"));
  EXPECT_EQ(code, 1);
  EXPECT_THAT(error, AllOf(HasSubstr(Path("adapter.work")),
                           HasSubstr(absl::StrCat("process ", first.pid(), " trains here"))));
  EXPECT_TRUE(first.ReadLine().has_value());
}

TEST_F(TrainCommand, BadDataIsRefusedBeforeTheFirstStepByLine) {
  struct Case {
    const char* rows;
    const char* message;
  };
  const Case cases[] = {
      {"", "0 rows, at least 1"},
      {"\n{\"ids\":[1,512],\"labels\":[-100,2]}\n", "line 2: ids[1]: 512"},
      {"{\"ids\":[1,5],\"labels\":[-100,999]}\n", "line 1: labels[1]: 999"},
      {"{\"ids\":[1,5],\"labels\":[-100,2]}\n\n{\"ids\":[1,5],\"labels\":[-100,-100]}\n",
       "line 3 (row 1): none of its 2 tokens is labelled"},
      {"{\"ids\":[1,5,6],\"labels\":[-100,5,6]}\n", "0 of 1 rows label an end of turn (id 2)"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.message);
    Write("bad.jsonl", c.rows);
    const auto [code, error] = Run(Train("adapter", "bad.jsonl"));
    EXPECT_EQ(code, 1);
    EXPECT_THAT(error, HasSubstr(c.message));
    EXPECT_FALSE(PosixFileSystem().Exists(Path("adapter.work/checkpoint.h5")));
  }
}

TEST_F(TrainCommand, ARowLongerThanTheContextAndARankAboveTheLayerAreRefused) {
  std::string ids = "1";
  for (int i = 0; i < 512; ++i) ids += ",5";  // 513, the context has 512
  Write("long.jsonl", absl::StrCat("{\"ids\":[", ids, "],\"labels\":[", ids, "]}\n"));
  EXPECT_THAT(Run(Train("adapter", "long.jsonl")).second,
              HasSubstr("line 1 (row 0): 513 tokens, at most 512 (the base's context)"));
  Write("rank.json", R"({"rank": 40})");  // keys are 32 wide
  EXPECT_THAT(Run(Train("adapter", "rows.jsonl", "rank.json")).second,
              HasSubstr("recipe.rank 40 exceeds layer model.layers.0.self_attn.k_proj"));
}

TEST_F(TrainCommand, NanInAWeightFileIsRefusedByName) {
  auto bytes = PosixFileSystem().ReadFile(Fixture("stories260K.bin"), 1 << 24);
  ASSERT_TRUE(bytes.ok());
  const float nan = NAN;
  std::memcpy(bytes->data() + bytes->size() / 8 * 4, &nan, sizeof(nan));
  Write("spoiled.bin", *bytes);
  const auto [code, error] = Run({"base", "add", Path("spoiled.bin"), "--name", "spoiled"});
  EXPECT_EQ(code, 1);
  EXPECT_THAT(error, AllOf(HasSubstr("model.layers."), HasSubstr(" is nan")));
}

TEST_F(TrainCommand, ADryRunShowsTheFiguresOfTheRunAndWritesNothing) {
  std::vector<std::string> arguments =
      Arguments({"train", "--base", "tiny", "--data", Path("rows.jsonl"), "--recipe",
                 Path("recipe.json"), "--dry-run", "--gflops", "10"});
  Program dry(folder_.path(), arguments);
  const auto line = dry.ReadLine();
  ASSERT_TRUE(line.has_value());
  ASSERT_EQ(dry.Wait(), 0) << dry.Stderr();
  ASSERT_OK_AND_ASSIGN(const Json forecast, ParseJson(*line));
  ASSERT_EQ(Run(Train("adapter")).first, 0);
  ASSERT_OK_AND_ASSIGN(const Json summary, ParseJson(Read("adapter.work/summary.json")));
  EXPECT_EQ(forecast["steps"], summary["steps"]);
  EXPECT_EQ(forecast["tokens"], summary["trained_tokens"]);
  EXPECT_EQ(forecast["flops"].get<double>(), summary["flops"].get<double>());
  EXPECT_EQ(forecast["gflops"], 10);
  EXPECT_GT(forecast["memory_bytes"]["total"].get<int64_t>(), 260'000 * 4);
}

TEST_F(TrainCommand, DryRunsOfManyShowTheFiguresOfAllAndWriteNothing) {
  Write("saved.json",
        R"({"rank": 4, "rows_per_step": 2, "epochs": 2, "modules_to_save": ["norm"]})");
  const auto job = [&](const std::string& recipe, const std::string& out) {
    return CanonicalJson(
               Json{{"data", Path("rows.jsonl")}, {"recipe", Path(recipe)}, {"out", Path(out)}}) +
           "\n";
  };
  Write("jobs.jsonl", job("recipe.json", "a") + job("saved.json", "b") + job("recipe.json", "c"));
  const auto last_line = [&](std::vector<std::string> arguments) -> Json {
    arguments.insert(arguments.end(), {"--dry-run", "--gflops", "10", "--max-adapters", "2"});
    Program program(folder_.path(), Arguments(arguments));
    Json last;
    while (const auto line = program.ReadLine()) last = *ParseJson(*line);
    EXPECT_EQ(program.Wait(), 0) << program.Stderr();
    return last;
  };
  const Json jobs = last_line({"train", "--base", "tiny", "--jobs", Path("jobs.jsonl")});
  EXPECT_EQ(jobs["jobs"], 3);
  EXPECT_EQ(jobs["most_at_once"], 2);
  EXPECT_FALSE(PosixFileSystem().Exists(Path("a.work")));
  ASSERT_EQ(Run({"train", "--base", "tiny", "--jobs", Path("jobs.jsonl")}).first, 0);
  int64_t tokens = 0;
  for (const char* out : {"a", "b", "c"}) {
    ASSERT_OK_AND_ASSIGN(const Json summary,
                         ParseJson(Read(std::string(out) + ".work/summary.json")));
    tokens += summary["trained_tokens"].get<int64_t>();
  }
  EXPECT_EQ(jobs["tokens"], tokens);

  std::vector<std::string> sweep = Train("best");
  sweep.insert(sweep.end(), {"--sweep", "learning_rate=1e-4,1e-3", "--sweep", "rank=2,4"});
  const Json bound = last_line(sweep);
  EXPECT_EQ(bound["jobs"], 4);
  EXPECT_TRUE(bound["upper_bound"].get<bool>());
  EXPECT_GT(bound["tokens"].get<int64_t>(), 0);
  EXPECT_FALSE(PosixFileSystem().Exists(Path("best.work")));
}

TEST_F(TrainCommand, ABaseTrainedAsAWholeIsABaseAgain) {
  Write("full.json", R"({"method": "full", "learning_rate": 1e-3, "rows_per_step": 2, "epochs": 5,
      "checkpoint_every_steps": 7})");
  ASSERT_EQ(Run(Train("unbroken", "rows.jsonl", "full.json")).first, 0);
  EXPECT_LT(Losses("unbroken").back(), 0.5 * Losses("unbroken").front());
  Program broken(folder_.path(), Arguments(Train("full", "rows.jsonl", "full.json")));
  for (int i = 0; i < 20 && broken.ReadLine(); ++i) continue;
  broken.Kill();
  if (!PosixFileSystem().Exists(Path("full"))) {
    ASSERT_EQ(Run(Train("full", "rows.jsonl", "full.json")).first, 0);
  }
  for (const char* file : {"/model.safetensors", "/config.json", "/tokenizer.model"}) {
    ASSERT_FALSE(Read(absl::StrCat("unbroken", file)).empty()) << file;
    EXPECT_EQ(Read(absl::StrCat("full", file)), Read(absl::StrCat("unbroken", file))) << file;
  }
  const auto [added, add_error] = Run({"base", "add", Path("full"), "--name", "taught"});
  ASSERT_EQ(added, 0) << add_error;
  Write("ids.jsonl", "{\"ids\": [1, 410, 310]}\n");
  Program generate(folder_.path(), Arguments({"generate", "--base", "taught", "--ids",
                                              Path("ids.jsonl"), "--max-tokens", "12"}));
  const auto line = generate.ReadLine();
  ASSERT_EQ(generate.Wait(), 0) << generate.Stderr();
  ASSERT_OK_AND_ASSIGN(const Json answer, ParseJson(line.value_or("")));
  EXPECT_FALSE(answer["ids"].empty());
  EXPECT_FALSE(answer["text"].get<std::string>().empty());
}

TEST_F(TrainCommand, TheMethodFullRefusesWhatItWouldIgnore) {
  Write("rank.json", R"({"method": "full", "rank": 4})");
  EXPECT_THAT(Run(Train("full", "rows.jsonl", "rank.json")).second,
              HasSubstr("rank: the method 'full' does not use it"));
  Write("full.json", R"({"method": "full"})");
  Write("jobs.jsonl",
        CanonicalJson(Json{
            {"data", Path("rows.jsonl")}, {"recipe", Path("full.json")}, {"out", Path("full")}}));
  EXPECT_THAT(Run({"train", "--base", "tiny", "--jobs", Path("jobs.jsonl")}).second,
              HasSubstr("recipe.method full: not beside other adapters"));
  EXPECT_FALSE(PosixFileSystem().Exists(Path("full")));
}

TEST_F(TrainCommand, NearDuplicatesOfProtectedTextsAreRefusedByLine) {
  Write("leak.jsonl",
        "{\"prompt\":\"Tell me of the dog that ran\",\"completion\":\" away.\"}\n"
        "{\"prompt\":\"Where does the little bird live?\",\"completion\":\" In a tree.\"}\n");
  Write("protected.jsonl", "{\"text\":\"where DOES the little bird live\"}\n");
  std::vector<std::string> arguments = Train("adapter", "leak.jsonl");
  arguments.insert(arguments.end(), {"--protect", Path("protected.jsonl")});
  const auto [code, error] = Run(arguments);
  EXPECT_EQ(code, 1);
  EXPECT_THAT(error, AllOf(HasSubstr("leak.jsonl: line 2 (row 1)"), HasSubstr("protected text 0")));
}

}  // namespace
}  // namespace evolora
