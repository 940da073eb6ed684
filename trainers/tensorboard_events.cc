#include "tensorboard_events.h"

#include <array>
#include <cstring>

namespace evolora {
namespace {

// Field numbers above, with the wire type in the low three bits.
enum Key : uint8_t {
  kWallTime = 1 << 3 | 1,
  kStep = 2 << 3 | 0,
  kFileVersion = 3 << 3 | 2,
  kSummary = 5 << 3 | 2,
  kValue = 1 << 3 | 2,
  kTag = 1 << 3 | 2,
  kSimpleValue = 2 << 3 | 5,
};

std::array<uint32_t, 256> MakeCrcTable() {
  constexpr uint32_t kReflected = 0x82F63B78;
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kReflected : 0);
    table[i] = crc;
  }
  return table;
}

void PutFixed(std::string& out, uint64_t value, int num_bytes) {
  for (int i = 0; i < num_bytes; ++i) out += static_cast<char>(value >> (8 * i) & 0xFF);
}

void PutVarint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  out += static_cast<char>(value);
}

void PutDouble(std::string& out, Key key, double value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  out += static_cast<char>(key);
  PutFixed(out, bits, 8);
}

void PutFloat(std::string& out, Key key, float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  out += static_cast<char>(key);
  PutFixed(out, bits, 4);
}

void PutBytes(std::string& out, Key key, absl::string_view bytes) {
  out += static_cast<char>(key);
  PutVarint(out, bytes.size());
  out.append(bytes.data(), bytes.size());
}

uint32_t Masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u; }

std::string Record(absl::string_view event) {
  std::string out;
  PutFixed(out, event.size(), 8);
  PutFixed(out, Masked(Crc32c(out)), 4);
  out.append(event.data(), event.size());
  PutFixed(out, Masked(Crc32c(event)), 4);
  return out;
}

}  // namespace

uint32_t Crc32c(absl::string_view bytes) {
  static const std::array<uint32_t, 256> table = MakeCrcTable();
  uint32_t crc = 0xFFFFFFFFu;
  for (const char c : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(c)) & 0xFF];
  return ~crc;
}

std::string TensorBoardStart(double wall_time_s) {
  std::string event;
  PutDouble(event, kWallTime, wall_time_s);
  PutBytes(event, kFileVersion, "brain.Event:2");
  return Record(event);
}

std::string TensorBoardStep(double wall_time_s, int64_t step,
                            absl::Span<const TensorBoardScalar> scalars) {
  std::string summary;
  for (const TensorBoardScalar& scalar : scalars) {
    std::string value;
    PutBytes(value, kTag, scalar.tag);
    PutFloat(value, kSimpleValue, static_cast<float>(scalar.value));
    PutBytes(summary, kValue, value);
  }
  std::string event;
  PutDouble(event, kWallTime, wall_time_s);
  event += static_cast<char>(kStep);
  PutVarint(event, static_cast<uint64_t>(step));
  PutBytes(event, kSummary, summary);
  return Record(event);
}

}  // namespace evolora
