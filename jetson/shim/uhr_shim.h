/* The flat-C border between uhr-edge and TensorRT: the table of src/engine/tensorrt/shim/mod.rs, whose contract holds here. */
#ifndef UHR_SHIM_H
#define UHR_SHIM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes with any change of the table but functions added at its end. */
#define UHR_SHIM_ABI_VERSION 2
#define UHR_MAX_DIMS 4
/* Where in its buffer a tensor may begin. */
#define UHR_ALIGNMENT 256

typedef uint64_t uhr_handle; /* 0 is none */
typedef int32_t uhr_status;  /* 0 and above went well */

enum {
    UHR_OK = 0,
    UHR_PENDING = 1,
    UHR_OUT_OF_MEMORY = -1,
    UHR_LOST = -2,
    UHR_SHAPE = -3,
    UHR_ARGUMENT = -4,
    UHR_FAILED = -5
};

/* What uhr_shim_open finds wrong. */
enum {
    UHR_NO_LIBRARY = -16,    /* TensorRT's library isn't there or doesn't load */
    UHR_NO_SYMBOL = -17,     /* a function that it should have isn't in it */
    UHR_OTHER_VERSION = -18, /* another TensorRT than the headers this was compiled against */
    UHR_NO_GPU = -19         /* no CUDA driver, or no GPU that it can use */
};

typedef struct {
    int32_t dtype; /* as TensorRT's */
    uint32_t rank;
    uint64_t dims[UHR_MAX_DIMS]; /* as declared, 0 is any */
} uhr_tensor;

typedef struct {
    const char *name;
    uhr_handle buffer;
    uint64_t offset; /* bytes into the buffer, a multiple of UHR_ALIGNMENT */
    uhr_tensor tensor;
} uhr_binding;

/* Rows, each `pitch` bytes after the one before, the first `offset` bytes into the buffer. */
typedef struct {
    uhr_handle buffer;
    uint64_t offset;
    uint64_t pitch;
} uhr_rows;

typedef struct {
    uint32_t tensorrt[4]; /* major, minor, patch, build; 0 where the library doesn't tell */
    uint32_t compute[2];  /* the GPU's compute capability */
} uhr_identity;

typedef struct {
    uint32_t (*abi_version)(void);
    uhr_status (*device_count)(uint32_t *count);
    uhr_status (*device_open)(uint32_t ordinal, uhr_handle *device);
    uhr_status (*device_close)(uhr_handle device);
    uint64_t (*describe)(uhr_handle device, char *text, uint64_t capacity);
    uint64_t (*last_error)(uhr_handle device, char *text, uint64_t capacity);
    uhr_status (*memory)(uhr_handle device, uint64_t *free, uint64_t *total);
    uhr_status (*buffer_alloc)(uhr_handle device, uint64_t bytes, uhr_handle *buffer);
    uhr_status (*buffer_free)(uhr_handle device, uhr_handle buffer);
    uhr_status (*host_alloc)(uhr_handle device, uint64_t bytes, uhr_handle *host, void **place);
    uhr_status (*host_free)(uhr_handle device, uhr_handle host);
    uhr_status (*stream_open)(uhr_handle device, uhr_handle *stream);
    uhr_status (*stream_close)(uhr_handle device, uhr_handle stream);
    uhr_status (*engine_open)(uhr_handle device, const uint8_t *plan, uint64_t bytes, uhr_handle *engine);
    uhr_status (*engine_bytes)(uhr_handle device, uhr_handle engine, uint64_t *bytes);
    uhr_status (*engine_tensor)(uhr_handle device, uhr_handle engine, const char *name, uhr_tensor *tensor);
    uhr_status (*engine_close)(uhr_handle device, uhr_handle engine);
    uhr_status (*copy_in)(uhr_handle device, uhr_handle stream, uhr_handle buffer, uhr_handle host, uint64_t bytes);
    uhr_status (*copy_out)(uhr_handle device, uhr_handle stream, uhr_handle host, uhr_handle buffer, uint64_t bytes);
    uhr_status (*enqueue)(uhr_handle device, uhr_handle stream, uhr_handle engine, const uhr_binding *bindings, uint32_t count);
    uhr_status (*event_open)(uhr_handle device, uhr_handle *event);
    uhr_status (*event_close)(uhr_handle device, uhr_handle event);
    uhr_status (*event_record)(uhr_handle device, uhr_handle stream, uhr_handle event);
    uhr_status (*event_query)(uhr_handle device, uhr_handle event);
    uhr_status (*event_wait)(uhr_handle device, uhr_handle event);
    /* The one allocation that all later buffers, weights and workspaces are taken from. Once, before any of them. */
    uhr_status (*reserve)(uhr_handle device, uint64_t bytes);
    uhr_status (*identity)(uhr_handle device, uhr_identity *identity);
    /* `rows` rows of `width` bytes from one buffer of the device to another. */
    uhr_status (*copy_rows)(uhr_handle device, uhr_handle stream, uhr_rows from, uhr_rows to, uint64_t width, uint64_t rows);
    uhr_status (*zero_rows)(uhr_handle device, uhr_handle stream, uhr_rows to, uint64_t width, uint64_t rows);
    /* All device memory that opening the engine took, what it gave back included: with so much left it opens wherever that lies. */
    uhr_status (*engine_taken)(uhr_handle device, uhr_handle engine, uint64_t *bytes);
    /* `host` as a buffer of the device, where both have one memory; else 0. The buffer is freed first. */
    uhr_status (*host_map)(uhr_handle device, uhr_handle host, uhr_handle *buffer);
} uhr_table;

/* The same in all versions; to be asked first. */
uint32_t uhr_shim_abi_version(void);

/* Loads TensorRT and the CUDA driver (by their usual names where the path is null), checks version and GPUs, and writes the first `bytes` of the table:
   those that the caller knows. A caller that knows more than there are is refused. What is wrong is told in `text`, of which `*len` bytes are written. May be asked again; refused while a device is open. */
uhr_status uhr_shim_open(const char *tensorrt, const char *cuda, uhr_table *table, uint64_t bytes, char *text, uint64_t capacity, uint64_t *len);

#ifdef __cplusplus
}
#endif
#endif
