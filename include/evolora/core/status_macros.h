#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// RETURN_IF_ERROR(expr): returns from the enclosing function when `expr` (an absl::Status) is not
// OK.
#define RETURN_IF_ERROR(expr)                          \
  do {                                                 \
    absl::Status evolora_status_ = (expr);             \
    if (!evolora_status_.ok()) return evolora_status_; \
  } while (false)

// ASSIGN_OR_RETURN(lhs, expr): lhs = *expr, or returns the error. `lhs` may declare a variable.
#define ASSIGN_OR_RETURN(lhs, expr) \
  EVOLORA_ASSIGN_OR_RETURN_(EVOLORA_CONCAT_(evolora_statusor_, __LINE__), lhs, expr)
#define EVOLORA_ASSIGN_OR_RETURN_(var, lhs, expr) \
  auto var = (expr);                              \
  if (!var.ok()) return std::move(var).status();  \
  lhs = *std::move(var)
#define EVOLORA_CONCAT_(a, b) EVOLORA_CONCAT_INNER_(a, b)
#define EVOLORA_CONCAT_INNER_(a, b) a##b

namespace evolora {

// Same code, message prefixed with `context + ": "`. An OK status stays OK.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace evolora
