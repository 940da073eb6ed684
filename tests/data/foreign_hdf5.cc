#include "foreign_hdf5.h"

#include <hdf5.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>

#include "absl/strings/escaping.h"
#include "evolora/core/sha256.h"

namespace evolora::testing {
namespace {

constexpr hsize_t kDims[] = {16};

void AddSet(hid_t file, const char* name, hid_t type, hid_t creation, const hsize_t* max = kDims) {
  const hid_t space = H5Screate_simple(1, kDims, max);
  H5Dclose(H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT));
  H5Sclose(space);
}

void AddCompound(hid_t file) {
  const hid_t type = H5Tcreate(H5T_COMPOUND, 8);
  H5Tinsert(type, "x", 0, H5T_IEEE_F32LE);
  H5Tinsert(type, "y", 4, H5T_STD_I32LE);
  AddSet(file, "odd", type, H5P_DEFAULT);
  H5Tclose(type);
}

void AddChunked(hid_t file, bool with_filter, bool extendible) {
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t unlimited = H5S_UNLIMITED;
  H5Pset_chunk(creation, 1, kDims);
  if (with_filter) H5Pset_fletcher32(creation);
  AddSet(file, "odd", H5T_IEEE_F32LE, creation, extendible ? &unlimited : kDims);
  H5Pclose(creation);
}

void AddExternalStorage(hid_t file) {
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(creation, "/etc/hostname", 0, 64);
  AddSet(file, "odd", H5T_IEEE_F32LE, creation);
  H5Pclose(creation);
}

void AddAttribute(hid_t file, hid_t type, hid_t space) {
  H5Aclose(H5Acreate2(file, "odd", type, space, H5P_DEFAULT, H5P_DEFAULT));
  H5Sclose(space);
}

hid_t VariableText() {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, H5T_VARIABLE);
  return type;
}

std::string Seal(const std::string& hdf5) {
  const uint64_t size = hdf5.size();
  std::string bytes = std::string(512, '\0') + hdf5;
  const std::string digest =
      absl::HexStringToBytes(Sha256Hex(absl::string_view(bytes).substr(512)));
  std::memcpy(bytes.data(), "EVOLORA-ARRAYS\r\n\x01\0\0\0", 20);
  std::memcpy(bytes.data() + 24, &size, 8);
  return bytes.replace(32, 32, digest);
}

}  // namespace

std::vector<float> ReadPlainHdf5(const std::string& path, const std::string& name, size_t count) {
  std::vector<float> values(count);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t set = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  const herr_t result =
      H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  H5Dclose(set);
  H5Fclose(file);
  return result < 0 ? std::vector<float>() : values;
}

std::vector<ForeignFile> MakeForeignFiles(const std::string& directory) {
  const std::vector<std::pair<std::string, std::function<void(hid_t)>>> kinds = {
      {"group",
       [](hid_t f) { H5Gclose(H5Gcreate2(f, "odd", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)); }},
      {"soft link", [](hid_t f) { H5Lcreate_soft("/", f, "odd", H5P_DEFAULT, H5P_DEFAULT); }},
      {"external link",
       [](hid_t f) { H5Lcreate_external("other.h5", "/x", f, "odd", H5P_DEFAULT, H5P_DEFAULT); }},
      {"named type",
       [](hid_t f) {
         const hid_t type = H5Tcopy(H5T_STD_I32LE);
         H5Tcommit2(f, "odd", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
         H5Tclose(type);
       }},
      {"compound", AddCompound},
      {"variable text", [](hid_t f) { AddSet(f, "odd", VariableText(), H5P_DEFAULT); }},
      {"big endian", [](hid_t f) { AddSet(f, "odd", H5T_IEEE_F32BE, H5P_DEFAULT); }},
      {"16 bit", [](hid_t f) { AddSet(f, "odd", H5T_STD_I16LE, H5P_DEFAULT); }},
      {"chunks", [](hid_t f) { AddChunked(f, false, false); }},
      {"filter", [](hid_t f) { AddChunked(f, true, false); }},
      {"extendible", [](hid_t f) { AddChunked(f, false, true); }},
      {"external storage", AddExternalStorage},
      {"attribute of variable text",
       [](hid_t f) { AddAttribute(f, VariableText(), H5Screate(H5S_SCALAR)); }},
      {"attribute array",
       [](hid_t f) { AddAttribute(f, H5T_STD_I64LE, H5Screate_simple(1, kDims, nullptr)); }},
      {"attribute of 32 bit",
       [](hid_t f) { AddAttribute(f, H5T_STD_I32LE, H5Screate(H5S_SCALAR)); }},
  };
  std::vector<ForeignFile> out;
  const std::string path = directory + "/foreign.h5";
  for (const auto& [what, add] : kinds) {
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    AddSet(file, "a", H5T_IEEE_F32LE, H5P_DEFAULT);
    add(file);
    H5Fclose(file);
    std::ifstream in(path, std::ios::binary);
    out.push_back({what, Seal(std::string(std::istreambuf_iterator<char>(in), {})), "'odd'"});
  }
  return out;
}

}  // namespace evolora::testing
