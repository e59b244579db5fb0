// Device memory: all of it from one allocation where one was reserved, else an allocation a piece.
#pragma once

#include <map>
#include <mutex>

#include "driver.h"
#include "uhr_shim.h"

namespace uhr {

class Arena {
public:
    // What TensorRT and CUDA's own allocator keep to.
    static constexpr std::uint64_t ALIGNMENT = UHR_ALIGNMENT;

    // What is taken for `wanted` bytes.
    static constexpr std::uint64_t rounded(std::uint64_t wanted) {
        return wanted == 0 ? ALIGNMENT : (wanted + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }

    explicit Arena(const Driver &driver) : driver_(driver) {}

    // Once. What was taken before stays where it is.
    CuResult reserve(std::uint64_t bytes) {
        std::lock_guard<std::mutex> lock(mutex_);
        CuPointer start = 0;
        if (CuResult result = driver_.cuMemAlloc_v2(&start, bytes)) return result;
        start_ = start;
        total_ = bytes;
        used_ = 0;
        free_[0] = bytes;
        return 0;
    }

    bool reserved() const { return start_ != 0; }

    // First fit, so the same requests get the same places.
    CuResult take(std::uint64_t wanted, CuPointer *place) {
        if (wanted > UINT64_MAX - ALIGNMENT) return CUDA_OUT_OF_MEMORY;
        const std::uint64_t bytes = rounded(wanted);
        std::lock_guard<std::mutex> lock(mutex_);
        CuPointer found = 0;
        if (!reserved()) {
            if (CuResult result = driver_.cuMemAlloc_v2(&found, bytes)) return result;
        } else {
            auto hole = free_.begin();
            while (hole != free_.end() && hole->second < bytes) ++hole;
            if (hole == free_.end()) return CUDA_OUT_OF_MEMORY;
            const auto [offset, room] = *hole;
            free_.erase(hole);
            if (room > bytes) free_[offset + bytes] = room - bytes;
            found = start_ + offset;
        }
        taken_[found] = bytes;
        used_ += bytes;
        *place = found;
        return 0;
    }

    // The bytes given back; 0 of what wasn't taken.
    std::uint64_t give(CuPointer place) {
        std::lock_guard<std::mutex> lock(mutex_);
        auto found = taken_.find(place);
        if (found == taken_.end()) return 0;
        const std::uint64_t bytes = found->second;
        taken_.erase(found);
        if (place < start_ || place - start_ >= total_) {
            driver_.cuMemFree_v2(place);
            return bytes;
        }
        used_ -= bytes;
        auto hole = free_.emplace(place - start_, bytes).first;
        auto next = std::next(hole);
        if (next != free_.end() && hole->first + hole->second == next->first) {
            hole->second += next->second;
            free_.erase(next);
        }
        if (hole != free_.begin()) {
            auto before = std::prev(hole);
            if (before->first + before->second == hole->first) {
                before->second += hole->second;
                free_.erase(hole);
            }
        }
        return bytes;
    }

    // Free and total of what was reserved.
    void left(std::uint64_t *free, std::uint64_t *total) {
        std::lock_guard<std::mutex> lock(mutex_);
        *free = total_ - used_;
        *total = total_;
    }

    void close() {
        if (reserved()) driver_.cuMemFree_v2(start_);
        start_ = 0;
    }

private:
    const Driver &driver_;
    std::mutex mutex_;
    CuPointer start_ = 0;
    std::uint64_t total_ = 0, used_ = 0;
    std::map<std::uint64_t, std::uint64_t> free_;   // offset → bytes, in order, none beside another
    std::map<CuPointer, std::uint64_t> taken_;
};

}  // namespace uhr
