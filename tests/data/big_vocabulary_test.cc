// Goldens of whole vocabularies, which are too big for the repository. EVOLORA_SMOLLM2_GGUF comes
// with tools/setup.sh; EVOLORA_GPT2_GGUF and EVOLORA_MISTRAL_MODEL are for whoever has the files.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <utility>

#include "data/tokenizer_golden.h"
#include "evolora/adapters/gguf.h"
#include "evolora/core/file_system.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/chat_format.h"
#include "evolora/data/tokenizer_spec.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::ExpectGolden;
using ::evolora::testing::GoldenText;

// "" when the variable is not set or names no file.
std::string FileOf(const char* variable) {
  const char* path = std::getenv(variable);
  return path != nullptr && PosixFileSystem().Exists(path) ? path : "";
}

absl::StatusOr<TokenizerSpec> SpecOfGguf(const std::string& path) {
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(PosixFileSystem(), path));
  GgufVocabulary vocabulary;
  ASSIGN_OR_RETURN(vocabulary.model, file.GetString("tokenizer.ggml.model"));
  ASSIGN_OR_RETURN(vocabulary.pre, file.GetString("tokenizer.ggml.pre"));
  ASSIGN_OR_RETURN(vocabulary.tokens, file.GetStringArray("tokenizer.ggml.tokens"));
  ASSIGN_OR_RETURN(vocabulary.merges, file.GetStringArray("tokenizer.ggml.merges"));
  ASSIGN_OR_RETURN(vocabulary.token_types, file.GetI32Array("tokenizer.ggml.token_type"));
  ASSIGN_OR_RETURN(const uint32_t bos, file.GetU32("tokenizer.ggml.bos_token_id"));
  ASSIGN_OR_RETURN(const uint32_t eos, file.GetU32("tokenizer.ggml.eos_token_id"));
  vocabulary.bos_id = static_cast<TokenId>(bos);
  vocabulary.eos_id = static_cast<TokenId>(eos);
  if (file.Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(vocabulary.chat_template, file.GetString("tokenizer.chat_template"));
  }
  return TokenizerSpecFromGguf(std::move(vocabulary));
}

TEST(SmolLm2, EncodesAsTheReferenceAndItsTemplateIsRecognised) {
  const std::string path = FileOf("EVOLORA_SMOLLM2_GGUF");
  if (path.empty()) GTEST_SKIP() << "EVOLORA_SMOLLM2_GGUF names no file: run tools/setup.sh";
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec spec, SpecOfGguf(path));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  ExpectGolden("smollm2", tokenizer);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(spec.chat_template, GoldenText("templates/smollm2.jinja"));
  ASSERT_OK_AND_ASSIGN(const ChatFormat format, RecogniseChatFormat(spec.chat_template));
  ASSERT_OK_AND_ASSIGN(const TokenId end, EndOfTurnId(*tokenizer, format));
  EXPECT_EQ(end, tokenizer->eos_id());
  ASSERT_OK_AND_ASSIGN(const auto files, HfTokenizerFiles(spec));
  ASSERT_OK_AND_ASSIGN(
      const TokenizerSpec back,
      TokenizerSpecFromHfJson(files.at("tokenizer.json"), files.at("tokenizer_config.json")));
  ASSERT_OK_AND_ASSIGN(const auto written, MakeTokenizer(back));
  ExpectGolden("smollm2", written);
  EXPECT_EQ(back.chat_template, spec.chat_template);
}

TEST(Gpt2, EncodesAsTheReference) {
  const std::string path = FileOf("EVOLORA_GPT2_GGUF");
  if (path.empty()) GTEST_SKIP() << "EVOLORA_GPT2_GGUF names no file";
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec spec, SpecOfGguf(path));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  ExpectGolden("gpt2_gguf", tokenizer);
}

TEST(Mistral, EncodesAsTheReference) {
  const std::string path = FileOf("EVOLORA_MISTRAL_MODEL");
  if (path.empty()) GTEST_SKIP() << "EVOLORA_MISTRAL_MODEL names no file";
  ASSERT_OK_AND_ASSIGN(const std::string model, PosixFileSystem().ReadFile(path, 1 << 24));
  ASSERT_OK_AND_ASSIGN(const TokenizerSpec spec, TokenizerSpecFromSentencePiece(model));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, MakeTokenizer(spec));
  ExpectGolden("mistral.model", tokenizer);
}

}  // namespace
}  // namespace evolora
