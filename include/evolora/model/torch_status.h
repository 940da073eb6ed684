#pragma once

#include <exception>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "c10/util/Exception.h"

namespace evolora {

// Runs `body`, which returns absl::Status or absl::StatusOr<T>, and turns what LibTorch throws into
// a status: c10::OutOfMemoryError and std::bad_alloc -> ResourceExhausted, other c10::Error ->
// Internal without the backtrace, other std::exception -> Internal. Each public function of the
// modules that use LibTorch wraps its body once; inside, code throws freely. `what` names the
// operation in the message.
template <typename Body>
auto CatchTorch(absl::string_view what, Body&& body) -> decltype(body()) {
  try {
    return std::forward<Body>(body)();
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": ", error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what_without_backtrace()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory"));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what()));
  }
}

}  // namespace evolora
