#pragma once

// Names of a PEFT folder, shared by its reader and its writer.
namespace evolora::peft {

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kModelFile[] = "adapter_model.safetensors";
constexpr char kCardFile[] = "README.md";
constexpr char kProofFile[] = "effect_proof.json";

// tensor := kPrefix module_path (kSuffixA | kSuffixB | kSuffixMagnitude | kSuffixWeight)
constexpr char kPrefix[] = "base_model.model.";
constexpr char kSuffixA[] = ".lora_A.weight";
constexpr char kSuffixB[] = ".lora_B.weight";
constexpr char kSuffixMagnitude[] = ".lora_magnitude_vector";  // of a DoRA; no ".weight"
constexpr char kSuffixWeight[] = ".weight";                    // of a module saved as a whole

}  // namespace evolora::peft
