#include "hdf5_image.h"

#include <hdf5.h>

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora::internal {
namespace {

// Owns one HDF5 identifier of any kind.
class Handle {
 public:
  explicit Handle(hid_t id) : id_(id) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
  Handle& operator=(Handle&&) = delete;
  ~Handle() {
    if (id_ >= 0) H5Idec_ref(id_);
  }
  hid_t get() const { return id_; }
  bool ok() const { return id_ >= 0; }

 private:
  hid_t id_;
};

// Silences HDF5's printing for the length of a call; its error stack goes into our Status instead.
class SilentErrors {
 public:
  SilentErrors() {
    H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    H5Eclear2(H5E_DEFAULT);
  }
  ~SilentErrors() { H5Eset_auto2(H5E_DEFAULT, function_, data_); }

 private:
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

std::string ErrorStack() {
  std::string text;
  const auto append = [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
    absl::StrAppend(static_cast<std::string*>(out), "; ", error->func_name, ": ", error->desc);
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, append, &text);
  H5Eclear2(H5E_DEFAULT);
  return text;
}

absl::Status WriteError(absl::string_view what) {
  return absl::InternalError(absl::StrCat("HDF5: ", what, ErrorStack()));
}
absl::Status ReadError(absl::string_view what) {
  return absl::DataLossError(absl::StrCat(what, ErrorStack()));
}

template <typename T>
struct TypeOf;
template <>
struct TypeOf<float> {
  static hid_t File() { return H5T_IEEE_F32LE; }
  static hid_t Memory() { return H5T_NATIVE_FLOAT; }
};
template <>
struct TypeOf<double> {
  static hid_t File() { return H5T_IEEE_F64LE; }
  static hid_t Memory() { return H5T_NATIVE_DOUBLE; }
};
template <>
struct TypeOf<int64_t> {
  static hid_t File() { return H5T_STD_I64LE; }
  static hid_t Memory() { return H5T_NATIVE_INT64; }
};
template <>
struct TypeOf<int32_t> {
  static hid_t File() { return H5T_STD_I32LE; }
  static hid_t Memory() { return H5T_NATIVE_INT32; }
};
template <>
struct TypeOf<uint8_t> {
  static hid_t File() { return H5T_STD_U8LE; }
  static hid_t Memory() { return H5T_NATIVE_UINT8; }
};

Handle SpaceOf(const std::vector<int64_t>& shape) {
  if (shape.empty()) return Handle(H5Screate(H5S_SCALAR));
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  return Handle(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr));
}

absl::Status WriteArray(hid_t file, hid_t creation, const std::string& name, const Array& array) {
  const Handle space = SpaceOf(array.shape);
  return std::visit(
      [&](const auto& values) -> absl::Status {
        using T = typename std::decay_t<decltype(values)>::value_type;
        const Handle set(H5Dcreate2(file, name.c_str(), TypeOf<T>::File(), space.get(), H5P_DEFAULT,
                                    creation, H5P_DEFAULT));
        if (!set.ok()) return WriteError(absl::StrCat("create array '", name, "'"));
        if (!values.empty() && H5Dwrite(set.get(), TypeOf<T>::Memory(), H5S_ALL, H5S_ALL,
                                        H5P_DEFAULT, values.data()) < 0) {
          return WriteError(absl::StrCat("write array '", name, "'"));
        }
        return absl::OkStatus();
      },
      array.values);
}

// Fixed-length, NUL-padded UTF-8; an empty text keeps one NUL, because HDF5 knows no size 0.
Handle StringType(size_t num_bytes) {
  Handle type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.get(), num_bytes == 0 ? 1 : num_bytes);
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  return type;
}

absl::Status WriteScalarAttribute(hid_t file, const std::string& name, hid_t file_type,
                                  hid_t memory_type, const void* data) {
  const Handle space(H5Screate(H5S_SCALAR));
  const Handle attribute(
      H5Acreate2(file, name.c_str(), file_type, space.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.ok() || H5Awrite(attribute.get(), memory_type, data) < 0) {
    return WriteError(absl::StrCat("attribute '", name, "'"));
  }
  return absl::OkStatus();
}

absl::Status WriteAttribute(hid_t file, const std::string& name, const ArrayAttribute& value) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    const Handle type = StringType(text->size());
    return WriteScalarAttribute(file, name, type.get(), type.get(), text->c_str());
  }
  if (const auto* number = std::get_if<int64_t>(&value)) {
    return WriteScalarAttribute(file, name, H5T_STD_I64LE, H5T_NATIVE_INT64, number);
  }
  const double number = std::get<double>(value);
  return WriteScalarAttribute(file, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &number);
}

Handle MemoryFileAccess() {
  Handle access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_fapl_core(access.get(), 1u << 20, 0);
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  return access;
}

Handle FileCreation() {
  Handle creation(H5Pcreate(H5P_FILE_CREATE));
  H5Pset_obj_track_times(creation.get(), false);
  return creation;
}

// ---- reading ----

absl::Status CheckPlainStorage(hid_t set, const std::string& name) {
  const Handle creation(H5Dget_create_plist(set));
  if (!creation.ok()) return ReadError(absl::StrCat("array '", name, "': no creation list"));
  const H5D_layout_t layout = H5Pget_layout(creation.get());
  if (layout != H5D_CONTIGUOUS) {
    return absl::DataLossError(absl::StrCat("array '", name, "': storage is not contiguous"));
  }
  if (H5Pget_nfilters(creation.get()) != 0 || H5Pget_external_count(creation.get()) != 0) {
    return absl::DataLossError(absl::StrCat("array '", name, "': filter or external storage"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> ReadShape(hid_t space, const std::string& name) {
  const H5S_class_t kind = H5Sget_simple_extent_type(space);
  if (kind == H5S_SCALAR) return std::vector<int64_t>();
  const int rank = H5Sget_simple_extent_ndims(space);
  if (kind != H5S_SIMPLE || rank < 1 || rank > 8) {
    return absl::DataLossError(absl::StrCat("array '", name, "': data space of rank ", rank));
  }
  std::vector<hsize_t> dims(static_cast<size_t>(rank));
  std::vector<hsize_t> max_dims(dims.size());
  H5Sget_simple_extent_dims(space, dims.data(), max_dims.data());
  if (dims != max_dims) {
    return absl::DataLossError(absl::StrCat("array '", name, "': extendible"));
  }
  return std::vector<int64_t>(dims.begin(), dims.end());
}

template <typename T>
absl::StatusOr<bool> ReadIf(hid_t set, hid_t type, size_t count, const std::string& name,
                            Array::Values& out) {
  if (H5Tequal(type, TypeOf<T>::File()) <= 0) return false;
  std::vector<T> values(count);
  if (count != 0 &&
      H5Dread(set, TypeOf<T>::Memory(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    return ReadError(absl::StrCat("array '", name, "'"));
  }
  out = std::move(values);
  return true;
}

absl::StatusOr<Array> ReadArray(hid_t file, const std::string& name, uint64_t file_bytes) {
  const Handle set(H5Dopen2(file, name.c_str(), H5P_DEFAULT));
  if (!set.ok()) return ReadError(absl::StrCat("'", name, "' is not an array"));
  RETURN_IF_ERROR(CheckPlainStorage(set.get(), name));
  const Handle space(H5Dget_space(set.get()));
  const Handle type(H5Dget_type(set.get()));
  Array out;
  ASSIGN_OR_RETURN(out.shape, ReadShape(space.get(), name));
  uint64_t count = 1;
  for (int64_t dim : out.shape) {
    // Contiguous values lie in the file, so a count beyond its size is a lie.
    if (dim < 0 || __builtin_mul_overflow(count, static_cast<uint64_t>(dim), &count) ||
        count > file_bytes) {
      return absl::DataLossError(absl::StrCat("array '", name, "': shape larger than the file"));
    }
  }
  using Reader = absl::StatusOr<bool> (*)(hid_t, hid_t, size_t, const std::string&, Array::Values&);
  for (Reader reader :
       {ReadIf<float>, ReadIf<double>, ReadIf<int64_t>, ReadIf<int32_t>, ReadIf<uint8_t>}) {
    ASSIGN_OR_RETURN(const bool done, reader(set.get(), type.get(), count, name, out.values));
    if (done) return out;
  }
  return absl::DataLossError(absl::StrCat("array '", name, "': unknown element type"));
}

absl::StatusOr<ArrayAttribute> ReadText(hid_t attribute, hid_t type, const std::string& name) {
  if (H5Tis_variable_str(type) != 0) {
    return absl::DataLossError(absl::StrCat("attribute '", name, "': variable-length text"));
  }
  std::string text(H5Tget_size(type), '\0');
  if (H5Aread(attribute, type, text.data()) < 0) {
    return ReadError(absl::StrCat("attribute '", name, "'"));
  }
  text.resize(text.find_last_not_of('\0') + 1);
  return ArrayAttribute(std::move(text));
}

absl::StatusOr<ArrayAttribute> ReadAttribute(hid_t file, const std::string& name) {
  const Handle attribute(H5Aopen(file, name.c_str(), H5P_DEFAULT));
  if (!attribute.ok()) return ReadError(absl::StrCat("attribute '", name, "'"));
  const Handle space(H5Aget_space(attribute.get()));
  const Handle type(H5Aget_type(attribute.get()));
  if (H5Sget_simple_extent_type(space.get()) != H5S_SCALAR) {
    return absl::DataLossError(absl::StrCat("attribute '", name, "': not one value"));
  }
  if (H5Tget_class(type.get()) == H5T_STRING) return ReadText(attribute.get(), type.get(), name);
  if (H5Tequal(type.get(), H5T_STD_I64LE) > 0) {
    int64_t value = 0;
    if (H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) >= 0) return ArrayAttribute(value);
  } else if (H5Tequal(type.get(), H5T_IEEE_F64LE) > 0) {
    double value = 0;
    if (H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value) >= 0) return ArrayAttribute(value);
  }
  return ReadError(absl::StrCat("attribute '", name, "': unknown type"));
}

struct Listing {
  int64_t max_objects;
  std::vector<std::string> names;
  absl::Status status;
};

herr_t ListLink(hid_t, const char* name, const H5L_info_t* info, void* data) {
  auto& listing = *static_cast<Listing*>(data);
  if (info->type != H5L_TYPE_HARD) {
    listing.status = absl::DataLossError(absl::StrCat("'", name, "' is a soft or external link"));
    return 1;
  }
  listing.names.emplace_back(name);
  return static_cast<int64_t>(listing.names.size()) > listing.max_objects ? 1 : 0;
}

herr_t ListAttribute(hid_t, const char* name, const H5A_info_t*, void* data) {
  auto& listing = *static_cast<Listing*>(data);
  listing.names.emplace_back(name);
  return static_cast<int64_t>(listing.names.size()) > listing.max_objects ? 1 : 0;
}

absl::Status Finish(const Listing& listing, herr_t result, absl::string_view what) {
  RETURN_IF_ERROR(listing.status);
  if (result < 0) return ReadError(absl::StrCat("cannot list the ", what));
  if (result > 0) {
    return absl::ResourceExhaustedError(absl::StrCat("more than ", listing.max_objects, " ", what));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ToHdf5Image(const ArrayFile& content) {
  const SilentErrors silent;
  const Handle access = MemoryFileAccess();
  const Handle creation = FileCreation();
  const Handle file(H5Fcreate("arrays", H5F_ACC_TRUNC, creation.get(), access.get()));
  if (!file.ok()) return WriteError("create file");
  const Handle set_creation(H5Pcreate(H5P_DATASET_CREATE));
  H5Pset_layout(set_creation.get(), H5D_CONTIGUOUS);
  H5Pset_obj_track_times(set_creation.get(), false);
  for (const auto& [name, array] : content.arrays) {
    RETURN_IF_ERROR(WriteArray(file.get(), set_creation.get(), name, array));
  }
  for (const auto& [name, value] : content.attributes) {
    RETURN_IF_ERROR(WriteAttribute(file.get(), name, value));
  }
  if (H5Fflush(file.get(), H5F_SCOPE_GLOBAL) < 0) return WriteError("flush");
  const ssize_t size = H5Fget_file_image(file.get(), nullptr, 0);
  if (size < 0) return WriteError("size of the file image");
  std::string bytes(kUserBlockBytes + static_cast<size_t>(size), '\0');
  if (H5Fget_file_image(file.get(), &bytes[kUserBlockBytes], static_cast<size_t>(size)) != size) {
    return WriteError("file image");
  }
  return bytes;
}

absl::StatusOr<ArrayFile> FromHdf5Image(absl::string_view bytes, const ArrayFileLimits& limits) {
  const SilentErrors silent;
  bytes.remove_prefix(kUserBlockBytes);
  const Handle access = MemoryFileAccess();
  // HDF5 copies the image and never writes through this pointer; its interface lacks the const.
  if (H5Pset_file_image(access.get(), const_cast<char*>(bytes.data()), bytes.size()) < 0) {
    return ReadError("file image");
  }
  const Handle file(H5Fopen("arrays", H5F_ACC_RDONLY, access.get()));
  if (!file.ok()) return ReadError("not HDF5");
  Listing links{limits.max_objects, {}, absl::OkStatus()};
  hsize_t from = 0;
  herr_t result = H5Literate(file.get(), H5_INDEX_NAME, H5_ITER_INC, &from, ListLink, &links);
  RETURN_IF_ERROR(Finish(links, result, "arrays"));
  Listing attributes{limits.max_objects, {}, absl::OkStatus()};
  from = 0;
  result = H5Aiterate2(file.get(), H5_INDEX_NAME, H5_ITER_INC, &from, ListAttribute, &attributes);
  RETURN_IF_ERROR(Finish(attributes, result, "attributes"));

  ArrayFile content;
  for (const std::string& name : links.names) {
    ASSIGN_OR_RETURN(content.arrays[name], ReadArray(file.get(), name, bytes.size()));
  }
  for (const std::string& name : attributes.names) {
    ASSIGN_OR_RETURN(content.attributes[name], ReadAttribute(file.get(), name));
  }
  return content;
}

}  // namespace evolora::internal
