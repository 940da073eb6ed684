#pragma once

namespace evolora::testing {

inline constexpr int kCrashExitCode = 86;

// From now on SQLite in this process dies at its n-th mutating file operation (1 = first: write,
// sync, truncate or delete), by _exit(kCrashExitCode), as a process that is killed. With `torn` a
// write leaves its first half. For forked children only: there is no way back.
void InstallCrashVfs(int n, bool torn);

}  // namespace evolora::testing
