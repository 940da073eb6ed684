#pragma once

#include <functional>

#include "absl/strings/string_view.h"

namespace evolora {

enum class LogLevel { kInfo, kWarning, kError };

// Where libraries send words meant for an operator. Libraries never print. May be empty (drops
// all).
using LogSink = std::function<void(LogLevel, absl::string_view)>;

}  // namespace evolora
