#pragma once

#include <cstdint>
#include <vector>

#include "evolora/core/tokenizer.h"

namespace evolora {

// Guesses what follows `context` from what followed its last three (else two) ids where they stood
// before, the latest such place: at most `limit` ids, none when there is no such place. Answers
// that quote their prompt (tool names, arguments, code) are guessed well; a wrong guess costs a
// little time, never the result, since the model checks each. Method: prompt lookup decoding
// (Saxena 2023), a form of speculative decoding (Leviathan et al. 2023) without a draft model.
std::vector<TokenId> GuessNext(const std::vector<TokenId>& context, int64_t limit);

}  // namespace evolora
