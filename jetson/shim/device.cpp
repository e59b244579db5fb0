// Devices, their memory, streams and events: the CUDA driver's part of the table.
#include "device.h"

#include <algorithm>
#include <cstring>

namespace uhr {

Shim &shim() {
    static Shim &one = *new Shim;
    return one;
}

Log &logger() {
    static Log &one = *new Log;
    return one;
}

uhr_handle next_handle() {
    static std::atomic<uhr_handle> next{1};
    return next++;
}

std::shared_ptr<Device> device_of(uhr_handle handle) {
    Shim &all = shim();
    std::lock_guard<std::mutex> lock(all.mutex);
    auto found = all.open.find(handle);
    return found == all.open.end() ? nullptr : found->second;
}

uhr_status Device::say(uhr_status status, std::string text) {
    std::lock_guard<std::mutex> lock(mutex);
    error = std::move(text);
    return status;
}

uhr_status Device::judge(const char *doing, CuResult result) {
    if (result == 0) return UHR_OK;
    if (result == CUDA_NOT_READY) return UHR_PENDING;
    std::string text = std::string(doing) + ": " + shim().driver.name(result);
    if (is_lost(result)) {
        std::lock_guard<std::mutex> lock(mutex);
        if (!lost.exchange(true)) why_lost = text;
        return UHR_LOST;
    }
    return say(result == CUDA_OUT_OF_MEMORY ? UHR_OUT_OF_MEMORY : UHR_FAILED, std::move(text));
}

uhr_status Device::enter() {
    if (lost) return UHR_LOST;
    return judge("entering its context", shim().driver.cuCtxSetCurrent(context));
}

namespace {

std::uint64_t write(const std::string &from, char *text, std::uint64_t capacity) {
    const std::uint64_t len = std::min<std::uint64_t>(from.size(), capacity);
    if (len > 0) std::memcpy(text, from.data(), len);
    return len;
}

uhr_status refuse(uhr_status status, std::string text) {
    Shim &all = shim();
    std::lock_guard<std::mutex> lock(all.mutex);
    all.error = std::move(text);
    return status;
}

std::uint32_t abi_version() noexcept { return UHR_SHIM_ABI_VERSION; }

uhr_status device_count(std::uint32_t *count) noexcept {
    *count = static_cast<std::uint32_t>(shim().devices);
    return UHR_OK;
}

uhr_status device_open(std::uint32_t ordinal, uhr_handle *handle) noexcept {
    return guarded([&]() -> uhr_status {
        Shim &all = shim();
        const Driver &driver = all.driver;
        if (ordinal >= static_cast<std::uint32_t>(all.devices)) return refuse(UHR_ARGUMENT, "no such device");
        auto device = std::make_shared<Device>();
        bool retained = false;
        // What was got so far goes back.
        auto fail = [&](uhr_status status, std::string text) {
            if (retained) driver.cuDevicePrimaryCtxRelease_v2(device->device);
            return refuse(status, std::move(text));
        };
        auto check = [&](const char *doing, CuResult result) { return device->judge(doing, result); };
        auto why = [&] { return device->lost ? device->why_lost : device->error; };
        char name[256] = {};
        int major = 0, minor = 0, integrated = 0, maps = 0;
        uhr_status status = check("finding a device", driver.cuDeviceGet(&device->device, static_cast<int>(ordinal)));
        if (!status) status = check("asking for its name", driver.cuDeviceGetName(name, sizeof name - 1, device->device));
        if (!status) status = check("asking for its kind", driver.cuDeviceGetAttribute(&major, COMPUTE_MAJOR, device->device));
        if (!status) status = check("asking for its kind", driver.cuDeviceGetAttribute(&minor, COMPUTE_MINOR, device->device));
        if (!status) status = check("asking for its memory", driver.cuDeviceGetAttribute(&integrated, INTEGRATED, device->device));
        if (!status) status = check("asking for its memory", driver.cuDeviceGetAttribute(&maps, CAN_MAP_HOST, device->device));
        if (status) return fail(status, why());
        device->name = name;
        device->compute[0] = static_cast<std::uint32_t>(major);
        device->compute[1] = static_cast<std::uint32_t>(minor);
        device->shares = integrated != 0 && maps != 0;
        if ((status = check("making its context", driver.cuDevicePrimaryCtxRetain(&device->context, device->device)))) return fail(status, why());
        retained = true;
        if ((status = device->enter())) return fail(status, why());
        logger().clear();
        void *runtime = all.create_runtime(&logger(), NV_TENSORRT_VERSION);
        // Without a usable GPU the factory of 10.16 gives a small number, not null.
        if (reinterpret_cast<std::uintptr_t>(runtime) < 4096) return fail(UHR_FAILED, "TensorRT made no runtime: " + logger().told());
        device->runtime = static_cast<nvinfer1::IRuntime *>(runtime);
        device->runtime->setGpuAllocator(&device->weights);
        std::lock_guard<std::mutex> lock(all.mutex);
        *handle = next_handle();
        all.open.emplace(*handle, std::move(device));
        return UHR_OK;
    });
}

uhr_status device_close(uhr_handle handle) noexcept {
    return guarded([&]() -> uhr_status {
        std::shared_ptr<Device> device = device_of(handle);
        if (!device) return UHR_ARGUMENT;
        {
            std::lock_guard<std::mutex> lock(device->mutex);
            if (!device->buffers.empty() || !device->hosts.empty() || !device->streams.empty() || !device->events.empty() ||
                !device->engines.empty()) {
                device->error = "closing a device on which something is open";
                return UHR_ARGUMENT;
            }
        }
        shim().driver.cuCtxSetCurrent(device->context);
        delete device->runtime;
        device->arena.close();
        const CuResult released = shim().driver.cuDevicePrimaryCtxRelease_v2(device->device);
        Shim &all = shim();
        std::lock_guard<std::mutex> lock(all.mutex);
        all.open.erase(handle);
        return released == 0 || device->lost ? UHR_OK : UHR_FAILED;
    });
}

std::uint64_t describe(uhr_handle handle, char *text, std::uint64_t capacity) noexcept {
    try {
        std::shared_ptr<Device> device = device_of(handle);
        if (!device) return 0;
        const std::uint32_t *v = shim().version;
        std::string words = std::to_string(v[0]) + "." + std::to_string(v[1]) + "." + std::to_string(v[2]) + " on " + device->name + " (SM " +
                            std::to_string(device->compute[0]) + "." + std::to_string(device->compute[1]) + ")";
        return write(words, text, capacity);
    } catch (...) {
        return 0;
    }
}

std::uint64_t last_error(uhr_handle handle, char *text, std::uint64_t capacity) noexcept {
    try {
        std::shared_ptr<Device> device = device_of(handle);
        if (!device) {
            std::lock_guard<std::mutex> lock(shim().mutex);
            return write(shim().error, text, capacity);
        }
        std::lock_guard<std::mutex> lock(device->mutex);
        return write(device->lost ? device->why_lost : device->error, text, capacity);
    } catch (...) {
        return 0;
    }
}

uhr_status identity(uhr_handle handle, uhr_identity *identity) noexcept {
    return guarded([&]() -> uhr_status {
        std::shared_ptr<Device> device = device_of(handle);
        if (!device) return UHR_ARGUMENT;
        std::copy_n(shim().version, 4, identity->tensorrt);
        std::copy_n(device->compute, 2, identity->compute);
        return UHR_OK;
    });
}

uhr_status memory(uhr_handle handle, std::uint64_t *free, std::uint64_t *total) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        if (device.arena.reserved()) {
            device.arena.left(free, total);
            return UHR_OK;
        }
        std::size_t left = 0, all = 0;
        if (uhr_status status = device.judge("asking for its memory", shim().driver.cuMemGetInfo_v2(&left, &all))) return status;
        *free = left;
        *total = all;
        return UHR_OK;
    });
}

uhr_status reserve(uhr_handle handle, std::uint64_t bytes) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        const bool first = [&] {
            std::lock_guard<std::mutex> lock(device.mutex);
            return device.buffers.empty() && device.engines.empty();
        }();
        if (device.arena.reserved() || !first || bytes == 0) return device.say(UHR_ARGUMENT, "reserving memory: once, some, and first");
        return device.judge("reserving memory", device.arena.reserve(bytes));
    });
}

uhr_status buffer_alloc(uhr_handle handle, std::uint64_t bytes, uhr_handle *buffer) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto made = std::make_shared<Buffer>(Buffer{0, bytes, nullptr});
        if (uhr_status status = device.judge("taking memory", device.arena.take(bytes, &made->place))) return status;
        *buffer = keep(device, device.buffers, std::move(made));
        return UHR_OK;
    });
}

uhr_status buffer_free(uhr_handle handle, uhr_handle buffer) noexcept {
    return closing(handle, [&](Device &device) -> uhr_status {
        auto removed = remove(device, device.buffers, buffer);
        if (!removed) return UHR_ARGUMENT;
        if (!removed->of) device.arena.give(removed->place);
        return UHR_OK;
    });
}

uhr_status host_alloc(uhr_handle handle, std::uint64_t bytes, uhr_handle *host, void **place) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto made = std::make_shared<Host>(Host{nullptr, bytes});
        const std::uint64_t some = std::max<std::uint64_t>(bytes, 8);
        const unsigned flags = device.shares ? HOST_MAPPED : 0;
        if (uhr_status status = device.judge("taking pinned memory", shim().driver.cuMemHostAlloc(&made->place, some, flags))) return status;
        std::memset(made->place, 0, some);
        *place = made->place;
        *host = keep(device, device.hosts, std::move(made));
        return UHR_OK;
    });
}

uhr_status host_map(uhr_handle handle, uhr_handle host, uhr_handle *buffer) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto own = find(device, device.hosts, host);
        if (!own) return device.say(UHR_ARGUMENT, "host memory that isn't this device's");
        *buffer = 0;
        if (!device.shares) return UHR_OK;
        auto made = std::make_shared<Buffer>(Buffer{0, own->bytes, own});
        const CuResult result = shim().driver.cuMemHostGetDevicePointer_v2(&made->place, own->place, 0);
        if (uhr_status status = device.judge("mapping pinned memory", result)) return status;
        *buffer = keep(device, device.buffers, std::move(made));
        return UHR_OK;
    });
}

uhr_status host_free(uhr_handle handle, uhr_handle host) noexcept {
    return closing(handle, [&](Device &device) -> uhr_status {
        {
            std::lock_guard<std::mutex> lock(device.mutex);
            auto found = device.hosts.find(host);
            const bool mapped = found != device.hosts.end() && std::any_of(device.buffers.begin(), device.buffers.end(), [&](const auto &buffer) {
                return buffer.second->of == found->second;
            });
            if (mapped) {
                device.error = "freeing pinned memory that is a buffer too";
                return UHR_ARGUMENT;
            }
        }
        auto removed = remove(device, device.hosts, host);
        if (!removed) return UHR_ARGUMENT;
        return device.judge("freeing pinned memory", shim().driver.cuMemFreeHost(removed->place));
    });
}

uhr_status stream_open(uhr_handle handle, uhr_handle *stream) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto made = std::make_shared<Stream>();
        if (uhr_status status = device.judge("opening a stream", shim().driver.cuStreamCreate(&made->stream, STREAM_NON_BLOCKING))) return status;
        *stream = keep(device, device.streams, std::move(made));
        return UHR_OK;
    });
}

uhr_status stream_close(uhr_handle handle, uhr_handle stream) noexcept {
    return closing(handle, [&](Device &device) -> uhr_status {
        auto removed = remove(device, device.streams, stream);
        if (!removed) return UHR_ARGUMENT;
        return device.judge("closing a stream", shim().driver.cuStreamDestroy_v2(removed->stream));
    });
}

uhr_status event_open(uhr_handle handle, uhr_handle *event) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto made = std::make_shared<Event>();
        if (uhr_status status = device.judge("opening an event", shim().driver.cuEventCreate(&made->event, EVENT_FLAGS))) return status;
        *event = keep(device, device.events, std::move(made));
        return UHR_OK;
    });
}

uhr_status event_close(uhr_handle handle, uhr_handle event) noexcept {
    return closing(handle, [&](Device &device) -> uhr_status {
        auto removed = remove(device, device.events, event);
        if (!removed) return UHR_ARGUMENT;
        return device.judge("closing an event", shim().driver.cuEventDestroy_v2(removed->event));
    });
}

uhr_status event_record(uhr_handle handle, uhr_handle stream, uhr_handle event) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto mark = find(device, device.events, event);
        auto queue = find(device, device.streams, stream);
        if (!mark || !queue) return device.say(UHR_ARGUMENT, "an event or a stream that isn't this device's");
        return device.judge("marking a stream", shim().driver.cuEventRecord(mark->event, queue->stream));
    });
}

uhr_status event_query(uhr_handle handle, uhr_handle event) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto mark = find(device, device.events, event);
        if (!mark) return device.say(UHR_ARGUMENT, "an event that isn't this device's");
        return device.judge("asking for an event", shim().driver.cuEventQuery(mark->event));
    });
}

uhr_status event_wait(uhr_handle handle, uhr_handle event) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto mark = find(device, device.events, event);
        if (!mark) return device.say(UHR_ARGUMENT, "an event that isn't this device's");
        return device.judge("waiting for its work", shim().driver.cuEventSynchronize(mark->event));
    });
}

uhr_status copy(uhr_handle handle, uhr_handle stream, uhr_handle buffer, uhr_handle host, std::uint64_t bytes, bool out) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto queue = find(device, device.streams, stream);
        auto own = find(device, device.buffers, buffer);
        auto other = find(device, device.hosts, host);
        if (!queue || !own || !other) return device.say(UHR_ARGUMENT, "a copy's memory or stream isn't this device's");
        if (bytes > own->bytes || bytes > other->bytes) return device.say(UHR_ARGUMENT, "a copy past the end of its memory");
        if (bytes == 0) return UHR_OK;
        const Driver &driver = shim().driver;
        return out ? device.judge("copying from the device", driver.cuMemcpyDtoHAsync_v2(other->place, own->place, bytes, queue->stream))
                   : device.judge("copying to the device", driver.cuMemcpyHtoDAsync_v2(own->place, other->place, bytes, queue->stream));
    });
}

uhr_status copy_in(uhr_handle device, uhr_handle stream, uhr_handle buffer, uhr_handle host, std::uint64_t bytes) noexcept {
    return copy(device, stream, buffer, host, bytes, false);
}

uhr_status copy_out(uhr_handle device, uhr_handle stream, uhr_handle host, uhr_handle buffer, std::uint64_t bytes) noexcept {
    return copy(device, stream, buffer, host, bytes, true);
}

// A place for rows in a buffer, or null with the reason told.
std::shared_ptr<Buffer> rows_in(Device &device, const uhr_rows &at, std::uint64_t width, std::uint64_t rows) {
    auto buffer = find(device, device.buffers, at.buffer);
    std::uint64_t end = 0;
    const bool overflows = __builtin_mul_overflow(rows == 0 ? 0 : rows - 1, at.pitch, &end) || __builtin_add_overflow(end, at.offset, &end) ||
                           __builtin_add_overflow(end, width, &end);
    if (buffer && !overflows && end <= buffer->bytes && width <= at.pitch) return buffer;
    device.say(UHR_ARGUMENT, "rows that aren't in their memory");
    return nullptr;
}

uhr_status copy_rows(uhr_handle handle, uhr_handle stream, uhr_rows from, uhr_rows to, std::uint64_t width, std::uint64_t rows) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto queue = find(device, device.streams, stream);
        if (!queue || from.buffer == to.buffer) return device.say(UHR_ARGUMENT, "rows copied onto themselves, or a stream that isn't this device's");
        auto source = rows_in(device, from, width, rows), sink = rows_in(device, to, width, rows);
        if (!source || !sink) return UHR_ARGUMENT;
        if (width == 0 || rows == 0) return UHR_OK;
        CuCopy2D copy{};
        copy.from_kind = copy.to_kind = MEMORY_DEVICE;
        copy.from = source->place + from.offset;
        copy.to = sink->place + to.offset;
        copy.from_pitch = from.pitch;
        copy.to_pitch = to.pitch;
        copy.width = width;
        copy.height = rows;
        return device.judge("copying rows", shim().driver.cuMemcpy2DAsync_v2(&copy, queue->stream));
    });
}

uhr_status zero_rows(uhr_handle handle, uhr_handle stream, uhr_rows to, std::uint64_t width, std::uint64_t rows) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto queue = find(device, device.streams, stream);
        if (!queue) return device.say(UHR_ARGUMENT, "a stream that isn't this device's");
        auto sink = rows_in(device, to, width, rows);
        if (!sink) return UHR_ARGUMENT;
        if (width == 0 || rows == 0) return UHR_OK;
        return device.judge("zeroing rows", shim().driver.cuMemsetD2D8Async(sink->place + to.offset, to.pitch, 0, width, rows, queue->stream));
    });
}

}  // namespace

void *Weights::allocate(std::uint64_t const size, std::uint64_t const alignment, nvinfer1::AllocatorFlags const) noexcept {
    CuPointer place = 0;
    try {
        if (size > 0 && alignment <= Arena::ALIGNMENT && arena_.take(size, &place) == 0) {
            live_ += Arena::rounded(size);
            taken_ += Arena::rounded(size);
            return reinterpret_cast<void *>(place);
        }
    } catch (...) {
    }
    refused_ = refused_ || size > 0;
    return nullptr;
}

bool Weights::deallocate(void *const memory) noexcept {
    try {
        if (memory == nullptr) return true;
        const std::uint64_t bytes = arena_.give(reinterpret_cast<CuPointer>(memory));
        live_ -= bytes;
        return bytes > 0;
    } catch (...) {
        return false;
    }
}

void *Weights::allocateAsync(std::uint64_t const size, std::uint64_t const alignment, nvinfer1::AllocatorFlags const flags,
                             cudaStream_t) noexcept {
    return allocate(size, alignment, flags);
}

// Memory whose stream may still use it isn't given to another before the stream is done.
bool Weights::deallocateAsync(void *const memory, cudaStream_t) noexcept {
    shim().driver.cuCtxSynchronize();
    return deallocate(memory);
}

void fill_device(uhr_table &table) {
    table = uhr_table{abi_version, device_count, device_open,  device_close, describe,     last_error,    memory,
                      buffer_alloc, buffer_free, host_alloc,   host_free,    stream_open,  stream_close,  engine_open,
                      engine_bytes, engine_tensor, engine_close, copy_in,    copy_out,     enqueue,       event_open,
                      event_close,  event_record,  event_query,  event_wait, reserve,      identity,      copy_rows,
                      zero_rows,    engine_taken,  host_map};
}

}  // namespace uhr
