#include "evolora/core/sha256.h"

#include <utility>

#include "gtest/gtest.h"

namespace evolora {
namespace {

constexpr char kEmpty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(Sha256, EqualsTheVectorsOfFips180) {
  EXPECT_EQ(Sha256Hex(""), kEmpty);
  EXPECT_EQ(Sha256Hex("abc"), kAbc);
  EXPECT_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256Hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesGiveTheDigestOfTheWhole) {
  Sha256 digest;
  digest.Update("a").Update("").Update("bc", 2);
  EXPECT_EQ(digest.FinishHex(), kAbc);
}

TEST(Sha256, AMovedDigestGoesOn) {
  Sha256 first;
  first.Update("a");
  Sha256 second = std::move(first);
  EXPECT_EQ(second.Update("bc").FinishHex(), kAbc);
}

TEST(Sha256DeathTest, RefusesUseAfterTheEnd) {
  Sha256 digest;
  digest.FinishHex();
  EXPECT_DEATH(digest.Update("x"), "after FinishHex");
}

TEST(IsSha256Hex, TakesExactly64LowerCaseDigits) {
  EXPECT_TRUE(IsSha256Hex(kAbc));
  EXPECT_FALSE(IsSha256Hex(""));
  EXPECT_FALSE(IsSha256Hex(std::string(63, 'a')));
  EXPECT_FALSE(IsSha256Hex(std::string(65, 'a')));
  EXPECT_FALSE(IsSha256Hex(std::string(64, 'A')));
  EXPECT_FALSE(IsSha256Hex(std::string(63, 'a') + "g"));
  EXPECT_FALSE(IsSha256Hex(std::string(64, '\0')));
}

}  // namespace
}  // namespace evolora
