// Memory: an allocator for CPU tensors that keeps what is freed, and how much tensors hold.
//
// The C library returns large blocks to the system when they are freed, and the system hands them out again page by page,
// each zeroed at its first touch: in training a tenth to a third of all time. Here large blocks come from one range of
// addresses reserved at the start; a freed block stays and is joined with free neighbours, the smallest that fits is used
// next. Where free blocks are too small for a request, as much of them is given back to the system as the request takes,
// so that the process never holds much more than its tensors at their highest did.
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>

#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <tuple>

namespace farmhand {

constexpr size_t kGrain = 64 << 10;     // sizes of large blocks are multiples of this
constexpr size_t kLarge = 1 << 20;      // smaller ones come from the C library
constexpr size_t kHeader = 64;          // in front of each tensor's data, as large as the alignment that libtorch promises
constexpr size_t kSlack = 64 << 20;     // free memory that is always kept

struct Header {
  size_t bytes;  // of the tensor
  size_t block;  // of its block with header; 0 when it came from the C library
};

// How much this process may hold: physical memory and swap space, or the limit of its control group.
static size_t memory_limit() {
  struct sysinfo info;
  size_t limit = std::numeric_limits<size_t>::max();
  if (!sysinfo(&info)) limit = (info.totalram + info.totalswap) * size_t(info.mem_unit);
  size_t group;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> group) limit = std::min(limit, group);
  return limit;
}

// One range of addresses, cut into blocks without gaps from its start to `top_`.
class Arena {
 public:
  // Reserves the addresses; memory stands behind them only where something was written.
  bool reserve(size_t size) {
    void* range = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return false;
    // Block sizes count from the first multiple of the grain.
    auto address = reinterpret_cast<uintptr_t>(range);
    top_ = reinterpret_cast<char*>((address + kGrain - 1) / kGrain * kGrain);
    end_ = static_cast<char*>(range) + size;
    return true;
  }

  // A block of `size` bytes, a multiple of the grain; null when the addresses have run out.
  char* take(size_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto fit = free_.lower_bound({size, nullptr});
    char* start = fit != free_.end() ? fit->second : grow(size);
    if (!start) return nullptr;
    auto block = blocks_.find(start);
    auto [whole, touched] = block->second;
    free_.erase({whole, start});
    blocks_.erase(block);
    size_t used = std::min(touched, size);
    if (whole > size) add_free(start + size, whole - size, touched - used);
    free_touched_ -= used;
    in_use_ += size;
    peak_ = std::max(peak_, in_use_);
    give_back(peak_ + peak_ / 8 + kSlack);
    return start;
  }

  void put(char* start, size_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    in_use_ -= size;
    free_touched_ += size;
    size_t touched = size;
    auto next = blocks_.lower_bound(start);
    if (next != blocks_.end() && next->first == start + size) {
      size += next->second.size;
      touched += next->second.touched;
      next = remove(next);
    }
    if (next != blocks_.begin()) {
      auto before = std::prev(next);
      if (before->first + before->second.size == start) {
        start = before->first;
        size += before->second.size;
        touched += before->second.touched;
        remove(before);
      }
    }
    add_free(start, size, touched);
  }

  // Returns the memory of free blocks, largest first, until tensors and free blocks hold at most `bytes`.
  void give_back_above(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    give_back(bytes);
  }

 private:
  // A free block; those in use are the gaps between free ones.
  struct Block {
    size_t size;
    size_t touched;  // at most this much of it has memory behind it
  };
  using Blocks = std::map<char*, Block>;

  void add_free(char* start, size_t size, size_t touched) {
    blocks_[start] = {size, touched};
    free_.insert({size, start});
  }

  Blocks::iterator remove(Blocks::iterator block) {
    free_.erase({block->second.size, block->first});
    return blocks_.erase(block);
  }

  // A free block of at least `size` at the top, with the free block that ends there, if any, as its beginning.
  char* grow(size_t size) {
    char* start = top_;
    size_t touched = 0;
    auto last = blocks_.empty() ? blocks_.end() : std::prev(blocks_.end());
    if (last != blocks_.end() && last->first + last->second.size == top_) {
      start = last->first;
      touched = last->second.touched;
    }
    if (size > size_t(end_ - start)) return nullptr;
    if (start != top_) remove(last);
    top_ = start + size;
    add_free(start, size, touched);
    return start;
  }

  void give_back(size_t bytes) {
    for (auto largest = free_.rbegin(); largest != free_.rend() && in_use_ + free_touched_ > bytes; ++largest) {
      auto& block = blocks_[largest->second];
      if (!block.touched) continue;
      madvise(largest->second, block.size, MADV_DONTNEED);
      free_touched_ -= block.touched;
      block.touched = 0;
    }
  }

  std::mutex mutex_;
  char* top_ = nullptr;
  char* end_ = nullptr;
  Blocks blocks_;
  std::set<std::pair<size_t, char*>> free_;  // the same by size
  size_t in_use_ = 0;
  size_t peak_ = 0;
  size_t free_touched_ = 0;
};

class TensorAllocator : public c10::Allocator {
 public:
  bool start() {
    limit_ = memory_limit();
    // Addresses cost nothing; some are lost between blocks.
    return arena_.reserve(std::min(limit_, size_t(16) << 40) * 4);
  }

  c10::DataPtr allocate(size_t bytes) override {
    auto device = c10::Device(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &free_data, device};
    size_t held = in_use_.load(std::memory_order_relaxed);
    TORCH_CHECK_WITH(OutOfMemoryError, bytes <= limit_ && held <= limit_ - bytes, "not enough memory: tensors hold ", held,
                     " bytes, ", bytes, " more are asked for, and this process may have ", limit_);
    size_t block = bytes + kHeader < kLarge ? 0 : (bytes + kHeader + kGrain - 1) / kGrain * kGrain;
    void* start = nullptr;
    if (block) {
      start = arena_.take(block);
    } else if (posix_memalign(&start, kHeader, bytes + kHeader)) {
      start = nullptr;
    }
    TORCH_CHECK_WITH(OutOfMemoryError, start, "not enough memory: no room for ", bytes, " bytes");
    *static_cast<Header*>(start) = {bytes, block};
    count(bytes);
    void* data = static_cast<char*>(start) + kHeader;
    return {data, data, &free_data, device};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &free_data; }

  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }

  size_t in_use() const { return in_use_; }
  size_t peak() const { return peak_; }
  void reset_peak() { peak_ = in_use_.load(); }
  void give_back() { arena_.give_back_above(0); }

 private:
  static void free_data(void* data);

  void count(size_t bytes) {
    size_t now = in_use_ += bytes;
    size_t peak = peak_;
    while (peak < now && !peak_.compare_exchange_weak(peak, now)) {
    }
  }

  Arena arena_;
  size_t limit_ = 0;
  std::atomic<size_t> in_use_ = 0;
  std::atomic<size_t> peak_ = 0;
};

// Null until it is in use; never freed, since tensors outlive everything.
static TensorAllocator* allocator = nullptr;

void TensorAllocator::free_data(void* data) {
  if (!data) return;
  auto header = reinterpret_cast<Header*>(static_cast<char*>(data) - kHeader);
  allocator->in_use_ -= header->bytes;
  if (header->block) {
    allocator->arena_.put(reinterpret_cast<char*>(header), header->block);
  } else {
    std::free(header);
  }
}

static void keep_freed_memory() {
  static std::once_flag once;
  std::call_once(once, [] {
    auto made = std::make_unique<TensorAllocator>();
    if (!made->start()) return;
    allocator = made.release();
    c10::SetCPUAllocator(allocator, 255);
  });
}

}  // namespace farmhand

extern "C" {

int farmhand_keep_freed_memory() { return farmhand::guarded(farmhand::keep_freed_memory); }

int farmhand_give_back_memory() {
  return farmhand::guarded([] {
    if (farmhand::allocator) farmhand::allocator->give_back();
  });
}

// Bytes that tensors hold now and held at most since the last reset: on the GPU number `gpu`, or on the CPU when that is
// negative, where both are 0 unless `farmhand_keep_freed_memory` came before.
int farmhand_tensor_memory(int gpu, size_t* now, size_t* peak) {
  return farmhand::guarded([&] {
    *now = *peak = 0;
    if (gpu >= 0) {
      auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(c10::DeviceIndex(gpu));
      const auto& bytes = stats.allocated_bytes[size_t(c10::CachingAllocator::StatType::AGGREGATE)];
      *now = size_t(bytes.current);
      *peak = size_t(bytes.peak);
    } else if (farmhand::allocator) {
      *now = farmhand::allocator->in_use();
      *peak = farmhand::allocator->peak();
    }
  });
}

int farmhand_reset_tensor_peak(int gpu) {
  return farmhand::guarded([&] {
    if (gpu >= 0) {
      c10::getDeviceAllocator(c10::DeviceType::CUDA)->resetPeakStats(c10::DeviceIndex(gpu));
    } else if (farmhand::allocator) {
      farmhand::allocator->reset_peak();
    }
  });
}

// What GPU number `gpu` has in all, and what is free.
int farmhand_gpu_memory(int gpu, size_t* total, size_t* free) {
  return farmhand::guarded([&] {
    auto allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
    std::tie(*free, *total) = allocator->getMemoryInfo(c10::DeviceIndex(gpu));
  });
}

}  // extern "C"
