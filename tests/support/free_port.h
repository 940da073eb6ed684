#pragma once

namespace evolora::testing {

// A TCP port of 127.0.0.1 that nobody listened on a moment ago.
int FreePort();

}  // namespace evolora::testing
