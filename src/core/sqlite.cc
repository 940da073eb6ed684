#include "evolora/core/sqlite.h"

#include <sqlite3.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

absl::StatusCode CodeOf(int sqlite_code) {
  switch (sqlite_code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::StatusCode::kDataLoss;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::StatusCode::kUnavailable;
    case SQLITE_FULL:
    case SQLITE_NOMEM:
    case SQLITE_TOOBIG:
      return absl::StatusCode::kResourceExhausted;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return absl::StatusCode::kPermissionDenied;
    case SQLITE_CANTOPEN:
      return absl::StatusCode::kNotFound;
    case SQLITE_CONSTRAINT:
      return absl::StatusCode::kFailedPrecondition;
    default:
      return absl::StatusCode::kInternal;
  }
}

constexpr char kSettings[] =
    "PRAGMA trusted_schema=OFF;"
    "PRAGMA foreign_keys=ON;"
    "PRAGMA recursive_triggers=ON;"
    "PRAGMA journal_mode=DELETE;"
    "PRAGMA synchronous=FULL;";

}  // namespace

absl::Status Sqlite::ToStatus(int code, absl::string_view what) const {
  if (code == SQLITE_OK || code == SQLITE_DONE || code == SQLITE_ROW) return absl::OkStatus();
  return absl::Status(CodeOf(code),
                      absl::StrCat(path_, ": ", what, ": ",
                                   db_ != nullptr ? sqlite3_errmsg(db_) : sqlite3_errstr(code)));
}

absl::StatusOr<std::unique_ptr<Sqlite>> Sqlite::Open(const std::string& path,
                                                     const SqliteOptions& options) {
  sqlite3* db = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
                    (options.create ? SQLITE_OPEN_CREATE : 0);
  const int code = sqlite3_open_v2(path.c_str(), &db, flags, nullptr);
  std::unique_ptr<Sqlite> out(new Sqlite(path, db));  // closes also a half-opened connection
  RETURN_IF_ERROR(out->ToStatus(code, "open"));
  sqlite3_busy_timeout(db, options.busy_timeout_ms);
  sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  RETURN_IF_ERROR(out->Execute(kSettings));
  return out;
}

Sqlite::~Sqlite() { sqlite3_close_v2(db_); }

absl::Status Sqlite::Execute(const std::string& sql) {
  return ToStatus(sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr), "execute");
}

absl::StatusOr<SqliteStatement> Sqlite::Prepare(absl::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  RETURN_IF_ERROR(ToStatus(
      sqlite3_prepare_v2(db_, sql.data(), static_cast<int>(sql.size()), &statement, nullptr),
      "prepare"));
  return SqliteStatement(this, statement);
}

absl::StatusOr<int64_t> Sqlite::QueryInt64(absl::string_view sql) {
  ASSIGN_OR_RETURN(SqliteStatement statement, Prepare(sql));
  ASSIGN_OR_RETURN(const bool row, statement.Step());
  if (!row) return absl::NotFoundError(absl::StrCat(path_, ": no row"));
  return statement.Int64(0);
}

absl::Status Sqlite::InTransaction(const std::function<absl::Status()>& body) {
  RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  absl::Status status = body();
  if (status.ok()) status = Execute("COMMIT");
  // Some errors have rolled back already; autocommit tells.
  if (!status.ok() && sqlite3_get_autocommit(db_) == 0) {
    status.Update(Execute("ROLLBACK"));
  }
  return status;
}

SqliteStatement::SqliteStatement(SqliteStatement&& other) noexcept
    : db_(other.db_),
      statement_(std::exchange(other.statement_, nullptr)),
      bind_error_(other.bind_error_) {}

SqliteStatement::~SqliteStatement() { sqlite3_finalize(statement_); }

SqliteStatement& SqliteStatement::BindText(int parameter, absl::string_view value) {
  const int code =
      sqlite3_bind_text64(statement_, parameter, value.data() != nullptr ? value.data() : "",
                          value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  if (bind_error_ == SQLITE_OK) bind_error_ = code;
  return *this;
}

SqliteStatement& SqliteStatement::BindInt64(int parameter, int64_t value) {
  const int code = sqlite3_bind_int64(statement_, parameter, value);
  if (bind_error_ == SQLITE_OK) bind_error_ = code;
  return *this;
}

SqliteStatement& SqliteStatement::BindDouble(int parameter, double value) {
  const int code = sqlite3_bind_double(statement_, parameter, value);
  if (bind_error_ == SQLITE_OK) bind_error_ = code;
  return *this;
}

SqliteStatement& SqliteStatement::BindNull(int parameter) {
  const int code = sqlite3_bind_null(statement_, parameter);
  if (bind_error_ == SQLITE_OK) bind_error_ = code;
  return *this;
}

absl::StatusOr<bool> SqliteStatement::Step() {
  if (bind_error_ != SQLITE_OK) {
    return db_->ToStatus(std::exchange(bind_error_, SQLITE_OK), "bind");
  }
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  const absl::Status status = db_->ToStatus(code, "step");
  sqlite3_reset(statement_);
  RETURN_IF_ERROR(status);
  return false;
}

absl::Status SqliteStatement::Run() {
  ASSIGN_OR_RETURN(bool row, Step());
  while (row) {
    ASSIGN_OR_RETURN(row, Step());
  }
  return absl::OkStatus();
}

void SqliteStatement::Reset() { sqlite3_reset(statement_); }

std::string SqliteStatement::Text(int column) const {
  const unsigned char* text = sqlite3_column_text(statement_, column);
  const int num_bytes = sqlite3_column_bytes(statement_, column);
  return text == nullptr ? "" : std::string(reinterpret_cast<const char*>(text), num_bytes);
}
int64_t SqliteStatement::Int64(int column) const {
  return sqlite3_column_int64(statement_, column);
}
double SqliteStatement::Double(int column) const {
  return sqlite3_column_double(statement_, column);
}
bool SqliteStatement::IsNull(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

}  // namespace evolora
