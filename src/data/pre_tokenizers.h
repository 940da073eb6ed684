#pragma once

namespace evolora {

// The split regexes of the models, as their tokenizer.json files write them.

// GPT-2's, also built into the ByteLevel pre-tokenizer.
inline constexpr char kGpt2Split[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr char kQwen2Split[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr char kLlama3Split[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// The Digits pre-tokenizer, each digit by itself or runs of digits.
inline constexpr char kDigitSplit[] = R"(\p{N})";
inline constexpr char kDigitsSplit[] = R"(\p{N}+)";

}  // namespace evolora
