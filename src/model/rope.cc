#include "evolora/model/rope.h"

#include <cmath>

#include "ATen/Functions.h"

namespace evolora {
namespace {

// Llama 3.1: long wavelengths are slowed by the factor, short ones kept, the band between blended.
at::Tensor ScaleLlama3(const at::Tensor& frequencies, const LlamaConfig& c) {
  const auto original = static_cast<double>(c.rope_original_positions);
  const double low_wavelength = original / c.rope_low_freq_factor;
  const double high_wavelength = original / c.rope_high_freq_factor;
  const at::Tensor wavelength = at::reciprocal(frequencies).mul(2 * M_PI);
  const at::Tensor slowed = frequencies.div(c.rope_factor);
  const at::Tensor smooth = at::reciprocal(wavelength)
                                .mul(original)
                                .sub(c.rope_low_freq_factor)
                                .div(c.rope_high_freq_factor - c.rope_low_freq_factor);
  const at::Tensor blended = (1 - smooth) * slowed + smooth * frequencies;
  const at::Tensor outer = at::where(wavelength.gt(low_wavelength), slowed, frequencies);
  const at::Tensor is_between =
      at::logical_and(wavelength.ge(high_wavelength), wavelength.le(low_wavelength));
  return at::where(is_between, blended, outer);
}

}  // namespace

at::Tensor RopeInverseFrequencies(const LlamaConfig& c) {
  const at::Tensor exponent =
      at::arange(0, c.head_dim, 2, at::kFloat).div(static_cast<double>(c.head_dim));
  at::Tensor frequencies = at::reciprocal(at::pow(c.rope_theta, exponent));
  if (c.rope_scaling == RopeScaling::kLinear) frequencies = frequencies.div(c.rope_factor);
  if (c.rope_scaling == RopeScaling::kLlama3) frequencies = ScaleLlama3(frequencies, c);
  if (!c.rope_freq_factors.empty()) {
    frequencies = frequencies.div(at::tensor(c.rope_freq_factors).to(at::kFloat));
  }
  return frequencies;
}

RopeTables RopeAt(const at::Tensor& inverse_frequencies, const at::Tensor& positions) {
  const at::Tensor angle = positions.to(at::kFloat).unsqueeze(-1).mul(inverse_frequencies);
  return {angle.cos(), angle.sin()};
}

}  // namespace evolora
