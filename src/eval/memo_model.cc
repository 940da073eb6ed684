#include "evolora/eval/memo_model.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"
#include "evolora/core/json.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "evolora/eval/request_key.h"

namespace evolora {
namespace {

constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

struct MemoRecord {
  Completion completion;
  double flops = 0;  // this row's share of its batch
  double seconds = 0;
};

// A completion cut inside a character is not UTF-8; its bytes go as hex then.
Json ToJson(const MemoRecord& record) {
  const Completion& c = record.completion;
  Json json = {{"ids", c.ids},
               {"finish_reason", c.finish_reason},
               {"num_prompt_tokens", c.num_prompt_tokens},
               {"sum_logprob", c.sum_logprob},
               {"flops", record.flops},
               {"seconds", record.seconds}};
  if (ReplaceInvalidUtf8(c.text) == c.text) {
    json["text"] = c.text;
  } else {
    json["text_hex"] = absl::BytesToHexString(c.text);
  }
  return json;
}

absl::StatusOr<MemoRecord> FromJson(const Json& json) {
  JsonFields fields(json, "completion");
  MemoRecord record;
  Completion& c = record.completion;
  for (const Json& id : fields.Array("ids")) {
    if (!id.is_number_integer()) {
      fields.Fail("ids", "not an id");
      break;
    }
    c.ids.push_back(id.get<TokenId>());
  }
  c.finish_reason = fields.String("finish_reason");
  c.num_prompt_tokens = fields.Integer("num_prompt_tokens", 0, kMaxTokens);
  c.sum_logprob = fields.Number("sum_logprob");
  record.flops = fields.Number("flops");
  record.seconds = fields.Number("seconds");
  if (fields.Has("text_hex")) {
    c.text = absl::HexStringToBytes(fields.String("text_hex"));
  } else {
    c.text = fields.String("text");
  }
  if (const absl::Status status = fields.Done(); !status.ok()) {
    return absl::DataLossError(absl::StrCat("memo: ", status.message()));
  }
  return record;
}

int64_t NumTokens(const Completion& c) {
  return c.num_prompt_tokens + static_cast<int64_t>(c.ids.size());
}

}  // namespace

// One distinct request of a call.
struct MemoModel::Row {
  const GenerateRequest* request = nullptr;
  std::string hash;
  int64_t prompt_tokens = 0;  // for sorting only
  bool is_fresh = false;
  MemoRecord record;
};

MemoModel::MemoModel(LanguageModel& inner, EvidenceStore& store, std::string fingerprint,
                     MemoOptions options)
    : inner_(&inner), store_(&store), fingerprint_(std::move(fingerprint)), options_(options) {
  EVOLORA_CHECK(options_.batch_size >= 1, "a memo batch holds at least one request");
}

absl::Status MemoModel::GenerateBatch(absl::Span<Row*> batch) {
  std::vector<GenerateRequest> requests;
  for (const Row* row : batch) requests.push_back(*row->request);
  const Compute before = inner_->spent();
  ASSIGN_OR_RETURN(std::vector<Completion> completions, inner_->Generate(requests));
  const Compute after = inner_->spent();
  if (completions.size() != batch.size()) {
    return absl::InternalError(
        absl::StrCat("the model answered ", completions.size(), " of ", batch.size(), " requests"));
  }
  int64_t batch_tokens = 0;
  for (const Completion& c : completions) batch_tokens += NumTokens(c);
  std::vector<MemoEntry> entries;
  for (size_t i = 0; i < batch.size(); ++i) {
    MemoRecord& record = batch[i]->record;
    record.completion = std::move(completions[i]);
    const double share = static_cast<double>(NumTokens(record.completion)) /
                         static_cast<double>(std::max<int64_t>(1, batch_tokens));
    record.flops = (after.flops - before.flops) * share;
    record.seconds = (after.seconds - before.seconds) * share;
    batch[i]->is_fresh = true;
    entries.push_back({batch[i]->hash, ToJson(record)});
  }
  return store_->PutCompletions(entries);
}

absl::StatusOr<std::vector<Completion>> MemoModel::Generate(
    absl::Span<const GenerateRequest> requests) {
  std::vector<Row> rows;
  std::map<std::string, size_t> row_of_hash;
  std::vector<size_t> row_of_request;
  for (const GenerateRequest& request : requests) {
    std::string hash = Sha256Hex(absl::StrCat("evolora-memo-1\n", fingerprint_.size(), "\n",
                                              fingerprint_, "\n", RequestKey(request)));
    const auto [it, is_new] = row_of_hash.emplace(hash, rows.size());
    row_of_request.push_back(it->second);
    if (is_new) rows.push_back({&request, std::move(hash)});
  }

  std::vector<Row*> missing;
  for (Row& row : rows) {
    const absl::StatusOr<Json> kept = store_->GetCompletion(row.hash);
    if (kept.ok()) {
      ASSIGN_OR_RETURN(row.record, FromJson(*kept));
      continue;
    }
    if (!absl::IsNotFound(kept.status())) return kept.status();
    row.prompt_tokens = static_cast<int64_t>(row.request->ids.size());
    if (row.request->ids.empty()) {
      ASSIGN_OR_RETURN(const std::vector<TokenId> ids, inner_->EncodeChat(row.request->messages));
      row.prompt_tokens = static_cast<int64_t>(ids.size());
    }
    missing.push_back(&row);
  }
  std::stable_sort(missing.begin(), missing.end(),
                   [](const Row* a, const Row* b) { return a->prompt_tokens < b->prompt_tokens; });
  const auto chunk = static_cast<size_t>(options_.batch_size);
  for (size_t at = 0; at < missing.size(); at += chunk) {
    RETURN_IF_ERROR(GenerateBatch(absl::MakeSpan(missing).subspan(at, chunk)));
  }

  std::vector<Completion> out;
  for (const size_t index : row_of_request) {
    Row& row = rows[index];
    const Completion& completion = row.record.completion;
    charged_ += Compute{.prompt_tokens = completion.num_prompt_tokens,
                        .generated_tokens = static_cast<int64_t>(completion.ids.size()),
                        .flops = row.record.flops,
                        .seconds = row.record.seconds};
    // Only the first of equal requests was computed.
    ++(std::exchange(row.is_fresh, false) ? num_fresh_ : num_cached_);
    out.push_back(completion);
  }
  return out;
}

absl::StatusOr<std::vector<Scored>> MemoModel::Score(absl::Span<const ScoreRequest> requests) {
  const Compute before = inner_->spent();
  absl::StatusOr<std::vector<Scored>> scored = inner_->Score(requests);
  const Compute after = inner_->spent();
  charged_ += Compute{.prompt_tokens = after.prompt_tokens - before.prompt_tokens,
                      .generated_tokens = after.generated_tokens - before.generated_tokens,
                      .trained_tokens = after.trained_tokens - before.trained_tokens,
                      .flops = after.flops - before.flops,
                      .seconds = after.seconds - before.seconds};
  return scored;
}

absl::StatusOr<std::vector<TokenId>> MemoModel::EncodeChat(
    absl::Span<const Message> messages) const {
  return inner_->EncodeChat(messages);
}

}  // namespace evolora
