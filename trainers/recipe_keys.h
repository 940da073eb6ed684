#pragma once

#include "evolora/core/json.h"
#include "evolora/trainers/recipe.h"

namespace evolora {

// Values of a recipe's keys as they are written.
const char* InitName(LoraInit init);
const char* PrecisionName(TrainingPrecision precision);

// The keys that only an adapter's recipe has, with their values.
Json AdapterKeys(const LoraRecipe& recipe);

}  // namespace evolora
