// The CUDA driver, loaded at run time: no CUDA is needed to compile or to link.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <string>

struct CUctx_st;
struct CUevent_st;
struct CUgraph_st;
struct CUgraphExec_st;
struct CUstream_st;

namespace uhr {

using CuResult = int;
using CuDevice = int;
using CuPointer = unsigned long long;
using CuContext = CUctx_st *;
using CuStream = CUstream_st *;
using CuEvent = CUevent_st *;
using CuGraph = CUgraph_st *;
using CuGraphExec = CUgraphExec_st *;

constexpr CuResult CUDA_OUT_OF_MEMORY = 2;
constexpr CuResult CUDA_NOT_READY = 600;
constexpr unsigned STREAM_NON_BLOCKING = 1;
// Waits sleep instead of spinning; nothing is timed.
constexpr unsigned EVENT_FLAGS = 1 | 2;
constexpr int MEMORY_DEVICE = 2;
constexpr unsigned HOST_MAPPED = 2;
// What other threads do meanwhile is no part of it.
constexpr int CAPTURE_THREAD = 1;
constexpr int INTEGRATED = 18;
constexpr int CAN_MAP_HOST = 19;
constexpr int COMPUTE_MAJOR = 75;
constexpr int COMPUTE_MINOR = 76;

// CUDA_MEMCPY2D of cuda.h.
struct CuCopy2D {
    std::size_t from_x, from_y;
    int from_kind;
    const void *from_host;
    CuPointer from;
    void *from_array;
    std::size_t from_pitch;
    std::size_t to_x, to_y;
    int to_kind;
    void *to_host;
    CuPointer to;
    void *to_array;
    std::size_t to_pitch;
    std::size_t width, height;
};
static_assert(sizeof(CuCopy2D) == 128, "cuda.h's own, of a 64-bit machine");

// Name in the library, and its type. The suffixes are the 64-bit versions that cuda.h's own macros choose.
#define UHR_CUDA(X)                                                                                 \
    X(cuInit, CuResult(unsigned))                                                                   \
    X(cuGetErrorName, CuResult(CuResult, const char **))                                            \
    X(cuDeviceGetCount, CuResult(int *))                                                            \
    X(cuDeviceGet, CuResult(CuDevice *, int))                                                       \
    X(cuDeviceGetName, CuResult(char *, int, CuDevice))                                             \
    X(cuDeviceGetAttribute, CuResult(int *, int, CuDevice))                                         \
    X(cuDevicePrimaryCtxRetain, CuResult(CuContext *, CuDevice))                                    \
    X(cuDevicePrimaryCtxRelease_v2, CuResult(CuDevice))                                             \
    X(cuCtxSetCurrent, CuResult(CuContext))                                                         \
    X(cuCtxSynchronize, CuResult())                                                                 \
    X(cuMemGetInfo_v2, CuResult(std::size_t *, std::size_t *))                                      \
    X(cuMemAlloc_v2, CuResult(CuPointer *, std::size_t))                                            \
    X(cuMemFree_v2, CuResult(CuPointer))                                                            \
    X(cuMemHostAlloc, CuResult(void **, std::size_t, unsigned))                                     \
    X(cuMemFreeHost, CuResult(void *))                                                              \
    X(cuMemHostGetDevicePointer_v2, CuResult(CuPointer *, void *, unsigned))                        \
    X(cuMemcpyHtoDAsync_v2, CuResult(CuPointer, const void *, std::size_t, CuStream))               \
    X(cuMemcpyDtoHAsync_v2, CuResult(void *, CuPointer, std::size_t, CuStream))                     \
    X(cuMemcpy2DAsync_v2, CuResult(const CuCopy2D *, CuStream))                                     \
    X(cuMemsetD2D8Async, CuResult(CuPointer, std::size_t, unsigned char, std::size_t, std::size_t, CuStream)) \
    X(cuStreamCreate, CuResult(CuStream *, unsigned))                                               \
    X(cuStreamDestroy_v2, CuResult(CuStream))                                                       \
    X(cuStreamQuery, CuResult(CuStream))                                                            \
    X(cuStreamBeginCapture_v2, CuResult(CuStream, int))                                             \
    X(cuStreamEndCapture, CuResult(CuStream, CuGraph *))                                            \
    X(cuGraphInstantiateWithFlags, CuResult(CuGraphExec *, CuGraph, unsigned long long))            \
    X(cuGraphDestroy, CuResult(CuGraph))                                                            \
    X(cuGraphLaunch, CuResult(CuGraphExec, CuStream))                                               \
    X(cuGraphExecDestroy, CuResult(CuGraphExec))                                                    \
    X(cuEventCreate, CuResult(CuEvent *, unsigned))                                                 \
    X(cuEventDestroy_v2, CuResult(CuEvent))                                                         \
    X(cuEventRecord, CuResult(CuEvent, CuStream))                                                   \
    X(cuEventQuery, CuResult(CuEvent))                                                              \
    X(cuEventSynchronize, CuResult(CuEvent))

template <class Function>
using Pointer = Function *;

struct Driver {
#define X(name, type) Pointer<type> name = nullptr;
    UHR_CUDA(X)
#undef X

    // The first function that `library` lacks, or null.
    const char *find(void *library) noexcept {
#define X(name, type)                                                                               \
    if ((name = reinterpret_cast<Pointer<type>>(dlsym(library, #name))) == nullptr) return #name;
        UHR_CUDA(X)
#undef X
        return nullptr;
    }

    std::string name(CuResult result) const {
        const char *name = nullptr;
        if (cuGetErrorName == nullptr || cuGetErrorName(result, &name) != 0 || name == nullptr) return "CUDA error " + std::to_string(result);
        return name;
    }
};

// Errors after which a context answers nothing but the same error, by cuda.h: a driver shut down, a device gone or broken, a kernel that failed.
constexpr bool is_lost(CuResult result) noexcept {
    switch (result) {
    case 4: case 46: case 100: case 101: case 201: case 214: case 220: case 226: case 700: case 702: case 708: case 709: case 710:
    case 714: case 715: case 716: case 717: case 718: case 719: case 721: case 802: case 999:
        return true;
    default:
        return false;
    }
}

}  // namespace uhr
