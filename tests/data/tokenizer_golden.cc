#include "data/tokenizer_golden.h"

#include <algorithm>
#include <fstream>
#include <memory>
#include <sstream>
#include <utility>

#include "evolora/core/random.h"
#include "evolora/core/sha256.h"
#include "evolora/data/stream_decoder.h"
#include "gtest/gtest.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora::testing {
namespace {

void AppendCodePoint(uint32_t c, std::string& out) {
  const auto push = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) return push(c);
  if (c < 0x800) {
    push(0xC0 | (c >> 6));
  } else if (c < 0x10000) {
    push(0xE0 | (c >> 12));
    push(0x80 | ((c >> 6) & 0x3F));
  } else {
    push(0xF0 | (c >> 18));
    push(0x80 | ((c >> 12) & 0x3F));
    push(0x80 | ((c >> 6) & 0x3F));
  }
  push(0x80 | (c & 0x3F));
}

std::string CodePointAt(const Json& ranges, uint64_t n) {
  std::string text;
  for (const Json& range : ranges) {
    const uint64_t size = range[1].get<uint64_t>() - range[0].get<uint64_t>() + 1;
    if (n < size) {
      AppendCodePoint(static_cast<uint32_t>(range[0].get<uint64_t>() + n), text);
      return text;
    }
    n -= size;
  }
  ADD_FAILURE() << "code point " << n << " past the ranges";
  return text;
}

void ExpectCorpus(const Tokenizer& tokenizer, const std::string& corpus, const Json& golden,
                  SpecialText special) {
  ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> ids, tokenizer.Encode(corpus, special));
  const auto head = golden["head"].get<std::vector<TokenId>>();
  const size_t num_head = std::min(head.size(), ids.size());
  EXPECT_EQ(std::vector<TokenId>(ids.begin(), ids.begin() + num_head), head);
  EXPECT_EQ(ids.size(), golden["num_ids"].get<size_t>());
  EXPECT_EQ(IdsDigest(ids), golden["sha256"].get<std::string>());
}

void ExpectCase(const std::shared_ptr<const Tokenizer>& tokenizer, const Json& golden) {
  const std::string text = golden["text"].get<std::string>();
  SCOPED_TRACE("case '" + text + "'");
  ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> ids,
                       tokenizer->Encode(text, SpecialText::kAsTokens));
  EXPECT_EQ(ids, golden["tokens"].get<std::vector<TokenId>>());
  ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> as_text,
                       tokenizer->Encode(text, SpecialText::kAsText));
  EXPECT_EQ(as_text, golden["as_text"].get<std::vector<TokenId>>());
  if (golden["decoded"].is_null()) return;
  ASSERT_OK_AND_ASSIGN(const std::string decoded, tokenizer->Decode(ids));
  EXPECT_EQ(ReplaceInvalidUtf8(decoded), golden["decoded"].get<std::string>());
  StreamDecoder stream(tokenizer);
  std::string streamed;
  for (const TokenId id : ids) {
    ASSERT_OK_AND_ASSIGN(const std::string piece, stream.Push(id));
    EXPECT_EQ(ReplaceInvalidUtf8(piece), piece);
    streamed += piece;
  }
  EXPECT_EQ(streamed + stream.Finish(), golden["decoded"].get<std::string>());
}

}  // namespace

std::string GoldenText(const std::string& name) {
  const std::string path = SourcePath("tests/golden/tokenizers/" + name);
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

Json GoldenJson(const std::string& name) { return Json::parse(GoldenText(name)); }

const std::string& Corpus() {
  static const std::string& corpus = *new std::string(MakeCorpus());
  return corpus;
}

std::string MakeCorpus() {
  const Json spec = GoldenJson("corpus.json");
  const auto parts = spec["parts"].get<std::vector<std::string>>();
  uint64_t num_code_points = 0;
  for (const Json& range : spec["ranges"]) {
    num_code_points += range[1].get<uint64_t>() - range[0].get<uint64_t>() + 1;
  }
  Random random(spec["seed"].get<uint64_t>());
  std::string text;
  while (text.size() < spec["num_bytes"].get<size_t>()) {
    const uint64_t r = random.NextU64();
    const uint64_t kind = r % 16, pick = (r >> 8) & 0xFFFFFFFF, count = (r >> 40) & 0xFFFF;
    const std::string piece = kind == 0 ? CodePointAt(spec["ranges"], pick % num_code_points)
                                        : parts[pick % parts.size()];
    const uint64_t times = kind == 0 ? 1 + count % 3 : kind == 1 ? 1 + count % 40 : 1;
    for (uint64_t i = 0; i < times; ++i) text += piece;
    if (kind > 1 && count % 2 == 1) text += " ";
  }
  return text;
}

std::string IdsDigest(const std::vector<TokenId>& ids) {
  std::string bytes;
  for (const TokenId id : ids) {
    for (int i = 0; i < 4; ++i) {
      bytes.push_back(static_cast<char>(static_cast<uint32_t>(id) >> (8 * i)));
    }
  }
  return Sha256Hex(bytes);
}

std::string VariantJson(const std::string& file, const std::string& variant) {
  Json json = GoldenJson(file);
  json.merge_patch(GoldenJson("variants.json")[file][variant]);
  return json.dump();
}

void ExpectGolden(const std::string& name, const std::shared_ptr<const Tokenizer>& tokenizer,
                  const std::string& corpus) {
  static const Json& goldens = *new Json(GoldenJson("ids.json"));
  SCOPED_TRACE("golden " + name);
  ASSERT_TRUE(goldens.contains(name));
  const Json& golden = goldens[name];
  for (const Json& c : golden["cases"]) ExpectCase(tokenizer, c);
  ExpectCorpus(*tokenizer, corpus, golden["tokens"], SpecialText::kAsTokens);
  ExpectCorpus(*tokenizer, corpus, golden["text"], SpecialText::kAsText);
}

}  // namespace evolora::testing
