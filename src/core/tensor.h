// TensorView: a borrowed, strided view of dense data, on any device. Buffer: an owner of memory.
//
// A view never owns and never checks lifetimes: whoever hands it out keeps the data alive.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "base/check.h"
#include "base/strings.h"
#include "core/dtype.h"
#include "core/memory.h"

namespace slipstream {

constexpr int kMaxRank = 4;

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  std::array<int64_t, kMaxRank> stride{};  // in elements

  static TensorView contiguous(void* data, DType dtype, std::initializer_list<int64_t> shape) {
    TensorView view;
    view.data = data;
    view.dtype = dtype;
    for (const int64_t extent : shape) view.shape[static_cast<size_t>(view.rank++)] = extent;
    int64_t step = 1;
    for (int axis = view.rank - 1; axis >= 0; --axis) {
      view.stride[static_cast<size_t>(axis)] = step;
      step *= view.shape[static_cast<size_t>(axis)];
    }
    return view;
  }

  int64_t dim(int axis) const { return shape[static_cast<size_t>(axis)]; }
  int64_t num_elements() const {
    int64_t count = 1;
    for (int axis = 0; axis < rank; ++axis) count *= dim(axis);
    return count;
  }
  // Row `row` of a view whose last axis is contiguous.
  float* f32_row(int64_t row) const { return static_cast<float*>(data) + row * stride[0]; }
  const int32_t* i32() const { return static_cast<const int32_t*>(data); }

  // Rows [begin, begin + count) of the first axis.
  TensorView rows(int64_t begin, int64_t count) const {
    TensorView view = *this;
    view.data =
        static_cast<char*>(data) + begin * stride[0] * static_cast<int64_t>(dtype_bytes(dtype));
    view.shape[0] = count;
    return view;
  }
  // Columns [begin, begin + count) of a [rows, columns] view.
  TensorView columns(int64_t begin, int64_t count) const {
    TensorView view = *this;
    view.data =
        static_cast<char*>(data) + begin * stride[1] * static_cast<int64_t>(dtype_bytes(dtype));
    view.shape[1] = count;
    return view;
  }

  std::string shape_text() const {
    std::string text = "[";
    for (int axis = 0; axis < rank; ++axis) text += str(axis > 0 ? ", " : "", dim(axis));
    return text + "]";
  }
};

struct BufferDeleter {
  const DeviceMemory* memory = nullptr;
  void operator()(void* data) const { memory->release(data); }
};

// Memory of one device, 64-byte aligned at least.
class Buffer {
 public:
  static constexpr size_t kAlignment = 64;

  Buffer() = default;
  explicit Buffer(size_t bytes, const DeviceMemory& memory = host_memory())
      : data_(bytes == 0 ? nullptr : memory.allocate(bytes), BufferDeleter{&memory}),
        bytes_(bytes) {}

  void* data() const { return data_.get(); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  size_t bytes() const { return bytes_; }
  void zero() {
    if (bytes_ > 0) data_.get_deleter().memory->fill(data(), 0, bytes_);
  }

 private:
  std::unique_ptr<void, BufferDeleter> data_;
  size_t bytes_ = 0;
};

// A vector of floats in a device's memory: norm weights, biases, frequencies.
class FloatVector {
 public:
  FloatVector() = default;
  FloatVector(std::span<const float> values, const DeviceMemory& memory)
      : buffer_(values.size_bytes(), memory), size_(static_cast<int64_t>(values.size())) {
    if (size_ > 0) memory.copy_in(buffer_.data(), values.data(), values.size_bytes());
  }

  const float* data() const { return buffer_.as<const float>(); }
  const float* data_or_null() const { return size_ > 0 ? data() : nullptr; }
  int64_t size() const { return size_; }

 private:
  Buffer buffer_;
  int64_t size_ = 0;
};

}  // namespace slipstream
