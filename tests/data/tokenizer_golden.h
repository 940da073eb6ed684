#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/core/json.h"
#include "evolora/core/tokenizer.h"
#include "evolora/data/tokenizer_spec.h"

namespace evolora::testing {

// A file of tests/golden/tokenizers; a missing one fails the test and gives "".
std::string GoldenText(const std::string& name);
Json GoldenJson(const std::string& name);

// The mixed text that tools/golden/tokenizer_golden.py describes.
std::string MakeCorpus();
const std::string& Corpus();  // made once

// SHA-256 of the ids as little-endian int32.
std::string IdsDigest(const std::vector<TokenId>& ids);

// The tokenizer.json `file` with the patch `variant` of variants.json.
std::string VariantJson(const std::string& file, const std::string& variant);

// Compares with the entry `name` of ids.json: the corpus, every case both ways, decoding,
// streaming.
void ExpectGolden(const std::string& name, const std::shared_ptr<const Tokenizer>& tokenizer,
                  const std::string& corpus = Corpus());

}  // namespace evolora::testing
