#include "evolora/core/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "evolora/core/check.h"

namespace evolora {

struct Sha256::Context {
  Context() : digest(EVP_MD_CTX_new()) {
    EVOLORA_CHECK(digest != nullptr, "out of memory for a digest context");
    EVOLORA_CHECK(EVP_DigestInit_ex(digest, EVP_sha256(), nullptr) == 1,
                  "SHA-256 is not available");
  }
  ~Context() { EVP_MD_CTX_free(digest); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  EVP_MD_CTX* digest;
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

Sha256& Sha256::Update(absl::string_view bytes) { return Update(bytes.data(), bytes.size()); }

Sha256& Sha256::Update(const void* data, size_t num_bytes) {
  EVOLORA_CHECK(context_ != nullptr, "Sha256 used after FinishHex or a move");
  if (num_bytes == 0) return *this;
  EVOLORA_CHECK(EVP_DigestUpdate(context_->digest, data, num_bytes) == 1, "SHA-256 update failed");
  return *this;
}

std::string Sha256::FinishHex() {
  EVOLORA_CHECK(context_ != nullptr, "Sha256 used after FinishHex or a move");
  std::array<unsigned char, 32> bytes{};
  unsigned int size = 0;
  EVOLORA_CHECK(
      EVP_DigestFinal_ex(context_->digest, bytes.data(), &size) == 1 && size == bytes.size(),
      "SHA-256 final failed");
  context_.reset();
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

std::string Sha256Hex(absl::string_view bytes) { return Sha256().Update(bytes).FinishHex(); }

bool IsSha256Hex(absl::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace evolora
