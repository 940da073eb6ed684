#pragma once

#include <memory>
#include <string>
#include <vector>

#include "evolora/data/stream.h"
#include "evolora/pipeline/run.h"
#include "support/fake_clock.h"
#include "support/fake_model.h"

namespace evolora::testing {

// A small world for runs without a real model:
//   facts    a question the model cannot answer; right once the fact stands in the context
//   tools    tool calls that no text helps; right under an adapter
//   persona  a rule; right once it stands in the context
//   broken   a tool whose documented name the runtime does not know
//   label    a verifier that refuses the right answer
//   general  anchors the model answers right, each ninth one wrong; all of them wrong under an
//            unscoped adapter if `careless_adapter`
class RunWorld {
 public:
  explicit RunWorld(bool careless_adapter = false);

  const Stream& stream() const { return stream_; }
  FakeModel& model() { return model_; }
  RunOptions Options(uint64_t seed) const;
  // Training gives a fixed adapter made from the request's digest. `home` must outlive the tools.
  RunTools Tools(Home& home);

  int num_trainings = 0;
  int num_crashes = 0;  // so many training attempts fail first
  std::vector<TrainingRequest> requests;
  std::vector<GenerateRequest> shift_requests;  // of the champion, on which KL was measured

 private:
  void AddFacts();
  void AddTools(bool careless_adapter);
  void AddPersona();
  void AddFaults();
  void AddGeneral(bool careless_adapter);
  void Row(const Case& c);

  std::string text_;
  FakeModel model_;
  Stream stream_;
};

}  // namespace evolora::testing
