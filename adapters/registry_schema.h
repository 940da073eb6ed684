#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "evolora/core/sqlite.h"

namespace evolora {

// Newest database schema this build knows.
int64_t RegistrySchemaVersion();

// Brings an empty or older database to RegistrySchemaVersion(), one transaction per step.
// Errors: FailedPrecondition  made by a newer build, or not a registry at all
absl::Status MigrateRegistry(Sqlite& db, int64_t now_unix_ms);

}  // namespace evolora
