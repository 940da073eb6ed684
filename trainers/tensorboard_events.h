#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace evolora {

// Bytes of a TensorBoard event file, encoded by hand: a TFRecord file of protobuf messages. Needs
// neither TensorFlow nor a protobuf library; times are passed in.
//
//   file    = record*                     the first one holds file_version
//   record  = length:u64le  masked(crc32c(length)):u32le  event:byte[length]
//             masked(crc32c(event)):u32le
//   masked  = ((crc >> 15) | (crc << 17)) + 0xa282ead8 mod 2^32
//   Event   { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }
//   Summary { repeated Value value = 1; }  Value { string tag = 1; float simple_value = 2; }
//
// Sources: tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto,
// tensorflow/core/framework/summary.proto.

// One curve's value at one step.
struct TensorBoardScalar {
  std::string tag;   // "train/loss"
  double value = 0;  // stored as float
};

// The first record of every file: Event{wall_time, file_version "brain.Event:2"}.
std::string TensorBoardStart(double wall_time_s);

// One record: all scalars of one step.
std::string TensorBoardStep(double wall_time_s, int64_t step,
                            absl::Span<const TensorBoardScalar> scalars);

// CRC-32C (Castagnoli polynomial 0x1EDC6F41, reflected) of `bytes`.
uint32_t Crc32c(absl::string_view bytes);

}  // namespace evolora
