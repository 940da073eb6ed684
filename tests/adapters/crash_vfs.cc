#include "crash_vfs.h"

#include <sqlite3.h>
#include <unistd.h>

namespace evolora::testing {
namespace {

sqlite3_vfs* real_vfs = nullptr;
int operations_left = 0;
bool torn_writes = false;

struct CrashFile {
  sqlite3_file base;  // must be first; the real file follows in memory
  sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};
sqlite3_file* Real(sqlite3_file* file) { return reinterpret_cast<CrashFile*>(file)->real(); }

bool LastOperation() { return --operations_left <= 0; }
void DieIfLast() {
  if (LastOperation()) _exit(kCrashExitCode);
}

int Close(sqlite3_file* f) { return Real(f)->pMethods->xClose(Real(f)); }
int Read(sqlite3_file* f, void* to, int n, sqlite3_int64 at) {
  return Real(f)->pMethods->xRead(Real(f), to, n, at);
}
int Write(sqlite3_file* f, const void* from, int n, sqlite3_int64 at) {
  if (LastOperation()) {
    if (torn_writes) Real(f)->pMethods->xWrite(Real(f), from, n / 2, at);
    _exit(kCrashExitCode);
  }
  return Real(f)->pMethods->xWrite(Real(f), from, n, at);
}
int Truncate(sqlite3_file* f, sqlite3_int64 size) {
  DieIfLast();
  return Real(f)->pMethods->xTruncate(Real(f), size);
}
int Sync(sqlite3_file* f, int flags) {
  DieIfLast();
  return Real(f)->pMethods->xSync(Real(f), flags);
}
int FileSize(sqlite3_file* f, sqlite3_int64* size) {
  return Real(f)->pMethods->xFileSize(Real(f), size);
}
int Lock(sqlite3_file* f, int level) { return Real(f)->pMethods->xLock(Real(f), level); }
int Unlock(sqlite3_file* f, int level) { return Real(f)->pMethods->xUnlock(Real(f), level); }
int CheckReserved(sqlite3_file* f, int* out) {
  return Real(f)->pMethods->xCheckReservedLock(Real(f), out);
}
int FileControl(sqlite3_file* f, int op, void* arg) {
  return Real(f)->pMethods->xFileControl(Real(f), op, arg);
}
int SectorSize(sqlite3_file* f) { return Real(f)->pMethods->xSectorSize(Real(f)); }
int Characteristics(sqlite3_file* f) { return Real(f)->pMethods->xDeviceCharacteristics(Real(f)); }

const sqlite3_io_methods kMethods = {1,           Close,      Read,           Write,  Truncate,
                                     Sync,        FileSize,   Lock,           Unlock, CheckReserved,
                                     FileControl, SectorSize, Characteristics};

int Open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  file->pMethods = nullptr;
  const int code = real_vfs->xOpen(real_vfs, name, Real(file), flags, out_flags);
  if (Real(file)->pMethods != nullptr) file->pMethods = &kMethods;
  return code;
}
int Delete(sqlite3_vfs*, const char* name, int sync_directory) {
  const bool last = LastOperation();
  if (last && !torn_writes) _exit(kCrashExitCode);
  const int code = real_vfs->xDelete(real_vfs, name, sync_directory);
  if (last) _exit(kCrashExitCode);
  return code;
}

}  // namespace

void InstallCrashVfs(int n, bool torn) {
  static sqlite3_vfs crash_vfs;
  real_vfs = sqlite3_vfs_find(nullptr);
  operations_left = n;
  torn_writes = torn;
  crash_vfs = *real_vfs;  // what is not replaced reaches the real one's functions
  crash_vfs.szOsFile = static_cast<int>(sizeof(CrashFile)) + real_vfs->szOsFile;
  crash_vfs.zName = "evolora-crash";
  crash_vfs.pNext = nullptr;
  crash_vfs.xOpen = Open;
  crash_vfs.xDelete = Delete;
  sqlite3_vfs_register(&crash_vfs, 1);
}

}  // namespace evolora::testing
