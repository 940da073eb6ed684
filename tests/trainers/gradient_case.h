#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "adapter_parameters.h"
#include "gradient_path.h"
#include "model/random_model.h"

namespace evolora::testing {

using PathFactory = std::function<std::unique_ptr<GradientPath>(const GradientPathInputs&)>;

// A model, rows and a recipe whose gradients two paths compute.
struct Case {
  std::string name;
  LlamaConfig config = SmallConfig();
  LoraRecipe recipe;
  std::vector<TrainingRow> rows;
};
using CaseChange = std::function<void(Case&)>;

// Begins with `prefix`; about half of the ids are labelled, the last one always.
TrainingRow RandomRow(const LlamaConfig& config, int64_t length, uint64_t seed,
                      const std::vector<TokenId>& prefix = {});

// Rows with common prefixes of several depths, equal rows, and rows that begin others.
std::vector<TrainingRow> SharingRows(const LlamaConfig& config);

// Of rank 4; rows of 2 to 70 tokens, unless `change` gives others.
Case MakeCase(
    std::string name, const CaseChange& change = [](Case&) {});

// Every architecture that a Llama-like config can name.
std::vector<Case> ArchitectureCases();
// Ranks, scales, and adapters at every single place, so that every stage is once the lowest one.
std::vector<Case> AdapterCases();
// Modules trained as a whole, beside adapters everywhere and, with a tied head, beside one.
std::vector<Case> SavedModuleCases();

struct Gradient {
  double loss_sum = 0;
  std::map<std::string, double> figures;
  AdapterParameters parameters;  // on the CPU
};

// Loss and gradient of all rows of a case, with A and B both random.
Gradient Compute(const Case& c, const PathFactory& factory, double factor = 0.1,
                 c10::Device device = c10::kCPU);

// "" or what differs: the loss or a figure by more than `tolerance`, relative, or the gradient of a
// parameter by more than that of the expected one's norm, which has to be above 0.
std::string Difference(const Gradient& actual, const Gradient& expected, double tolerance);

void ExpectSame(const Gradient& actual, const Gradient& expected, double tolerance = 1e-5);
void ExpectFastEqualsReference(const Case& c);

}  // namespace evolora::testing
