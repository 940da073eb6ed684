#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct sqlite3;
struct sqlite3_stmt;

namespace evolora {

struct SqliteOptions {
  bool create = true;          // create the file when it is absent; else NotFound
  int busy_timeout_ms = 5000;  // how long to wait for another connection's lock
};

class SqliteStatement;

// One SQLite connection, as every store of evolora uses it: rollback journal, synchronous=FULL,
// foreign keys on, recursive triggers on, no extension loading, untrusted schema. Text is UTF-8.
//
// Errors of every call: DataLoss (corrupt file, not a database), Unavailable (locked by another
//   connection), ResourceExhausted (disk or memory full), PermissionDenied (read-only),
//   FailedPrecondition (constraint or trigger refused the change), Internal (anything else, such as
//   wrong SQL); the message names the file and SQLite's words.
// Threads: one caller at a time per object, statements included.
class Sqlite {
 public:
  // `path` may be ":memory:". Its folder must exist.
  static absl::StatusOr<std::unique_ptr<Sqlite>> Open(const std::string& path,
                                                      const SqliteOptions& options = {});
  ~Sqlite();
  Sqlite(const Sqlite&) = delete;
  Sqlite& operator=(const Sqlite&) = delete;

  // Runs one or more statements without parameters; rows are dropped.
  absl::Status Execute(const std::string& sql);
  // Exactly one statement. The statement must not outlive this object.
  absl::StatusOr<SqliteStatement> Prepare(absl::string_view sql);
  // The first column of the first row as an integer; NotFound when there is no row.
  absl::StatusOr<int64_t> QueryInt64(absl::string_view sql);
  // BEGIN IMMEDIATE, `body`, COMMIT; ROLLBACK when `body` or the commit fails. Not nestable.
  absl::Status InTransaction(const std::function<absl::Status()>& body);

  const std::string& path() const { return path_; }
  // For interfaces SQL cannot reach (tokenizers, backup). Owned by this object.
  sqlite3* handle() { return db_; }

 private:
  friend class SqliteStatement;
  Sqlite(std::string path, sqlite3* db) : path_(std::move(path)), db_(db) {}
  absl::Status ToStatus(int code, absl::string_view what) const;

  std::string path_;
  sqlite3* db_;
};

// A prepared statement. Movable. Parameters and columns: parameters count from 1, columns from 0.
class SqliteStatement {
 public:
  ~SqliteStatement();
  SqliteStatement(SqliteStatement&& other) noexcept;
  SqliteStatement& operator=(SqliteStatement&&) = delete;

  // A failed bind is reported by the next Step().
  SqliteStatement& BindText(int parameter, absl::string_view value);
  SqliteStatement& BindInt64(int parameter, int64_t value);
  SqliteStatement& BindDouble(int parameter, double value);
  SqliteStatement& BindNull(int parameter);

  // True: a row is there to be read. False: done, and the statement is reset for another use.
  absl::StatusOr<bool> Step();
  // For statements without rows: binds stay, the statement is ready to be run again.
  absl::Status Run();
  void Reset();

  std::string Text(int column) const;
  int64_t Int64(int column) const;
  double Double(int column) const;
  bool IsNull(int column) const;

 private:
  friend class Sqlite;
  SqliteStatement(Sqlite* db, sqlite3_stmt* statement) : db_(db), statement_(statement) {}

  Sqlite* db_;
  sqlite3_stmt* statement_;
  int bind_error_ = 0;
};

}  // namespace evolora
