#include "base_tokenizer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr uint64_t kMaxFileBytes = 64 << 20;

absl::StatusOr<std::string> ReadIfThere(const FileSystem& fs, const std::string& path) {
  if (!fs.Exists(path)) return std::string();
  return fs.ReadFile(path, kMaxFileBytes);
}

absl::StatusOr<BaseTokenizer> ReadHfTokenizer(const FileSystem& fs, const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string dir = slash == std::string::npos ? "." : path.substr(0, slash);
  ASSIGN_OR_RETURN(const std::string json, fs.ReadFile(path, kMaxFileBytes));
  ASSIGN_OR_RETURN(const std::string config,
                   ReadIfThere(fs, JoinPath(dir, "tokenizer_config.json")));
  ASSIGN_OR_RETURN(const std::string chat, ReadIfThere(fs, JoinPath(dir, "chat_template.jinja")));
  absl::StatusOr<TokenizerSpec> spec = TokenizerSpecFromHfJson(json, config);
  if (!spec.ok()) return Annotate(spec.status(), path);
  // A template file takes the place of the one in tokenizer_config.json.
  if (!chat.empty()) spec->chat_template = chat;
  return MakeBaseTokenizer(*std::move(spec));
}

absl::StatusOr<BaseTokenizer> ReadSentencePiece(const FileSystem& fs, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string bytes, fs.ReadFile(path, kMaxFileBytes));
  absl::StatusOr<TokenizerSpec> spec = TokenizerSpecFromSentencePiece(bytes);
  if (!spec.ok()) return Annotate(spec.status(), path);
  return MakeBaseTokenizer(*std::move(spec));
}

}  // namespace

absl::StatusOr<BaseTokenizer> MakeBaseTokenizer(TokenizerSpec spec) {
  BaseTokenizer base;
  ASSIGN_OR_RETURN(base.tokenizer, MakeTokenizer(spec));
  spec.tokens.clear();
  spec.merges.clear();
  base.spec = std::move(spec);
  return base;
}

absl::StatusOr<BaseTokenizer> ReadBaseTokenizer(const FileSystem& fs, const std::string& path) {
  if (absl::EndsWith(path, ".json")) return ReadHfTokenizer(fs, path);
  if (absl::EndsWith(path, ".model")) return ReadSentencePiece(fs, path);
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    const std::string inside = JoinPath(path, name);
    if (fs.Exists(inside)) return ReadBaseTokenizer(fs, inside);
  }
  return absl::NotFoundError(absl::StrCat(
      path,
      ": neither a .json or .model file nor a folder with tokenizer.json or tokenizer.model"));
}

absl::StatusOr<ChatFormat> FindChatFormat(const BaseTokenizer& tokenizer, const std::string& name) {
  if (!name.empty()) return ParseChatFormatName(name);
  if (tokenizer.spec.chat_template.empty()) {
    return absl::FailedPreconditionError(
        "the model has no chat template; name a format with --chat-format");
  }
  ASSIGN_OR_RETURN(ChatFormat format, RecogniseChatFormat(tokenizer.spec.chat_template));
  return format;
}

}  // namespace evolora
