/* What gossip calls of the CUDA driver, declared as its API's documentation does, over memory of the host. */

#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct { char reserved[64]; } CUipcMemHandle;

enum {
    OK = 0,
    INVALID_VALUE = 1,
    NOT_INITIALIZED = 3,
    INVALID_CONTEXT = 201,
    ALREADY_REGISTERED = 712,
    NOT_REGISTERED = 713,
    NOT_SUPPORTED = 801,
};

int ready, depth, bound, device = -1, allocated, mapped, shares = 1;
size_t size;
void *locked;
static struct CUctx_st { int unused; } primary;

CUresult cuInit(unsigned int flags) {
    ready = flags == 0;
    return ready ? OK : INVALID_VALUE;
}

CUresult cuDeviceGet(CUdevice *found, int ordinal) {
    if (!ready) return NOT_INITIALIZED;
    *found = 40 + ordinal;
    return OK;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice which) {
    device = which - 40;
    *context = &primary;
    return OK;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    bound = context == &primary;
    return bound ? OK : INVALID_CONTEXT;
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
    if (context != &primary) return INVALID_CONTEXT;
    depth++;
    return OK;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    if (!depth) return INVALID_CONTEXT;
    depth--;
    *context = &primary;
    return OK;
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
    void *memory;
    if (!depth) return INVALID_CONTEXT;
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return INVALID_VALUE;
    *pointer = (CUdeviceptr)(uintptr_t)memory;
    size = bytes;
    allocated++;
    return OK;
}

CUresult cuMemFree_v2(CUdeviceptr pointer) {
    if (!depth) return INVALID_CONTEXT;
    allocated--;
    return munmap((void *)(uintptr_t)pointer, size) ? INVALID_VALUE : OK;
}

CUresult cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr pointer) {
    if (!depth) return INVALID_CONTEXT;
    if (!shares) return NOT_SUPPORTED;
    memset(handle, 0, sizeof *handle); /* as the driver's, it has zeros in its midst */
    memcpy(handle->reserved + 56, &pointer, sizeof pointer);
    return OK;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pointer, CUipcMemHandle handle, unsigned int flags) {
    if (!depth) return INVALID_CONTEXT;
    if (flags != 1) return INVALID_VALUE;
    memcpy(pointer, handle.reserved + 56, sizeof *pointer);
    mapped++;
    return OK;
}

CUresult cuIpcCloseMemHandle(CUdeviceptr pointer) {
    if (!depth) return INVALID_CONTEXT;
    mapped--;
    return pointer ? OK : INVALID_VALUE;
}

CUresult cuMemHostRegister_v2(void *address, size_t bytes, unsigned int flags) {
    if (!depth) return INVALID_CONTEXT;
    if (flags != 1) return INVALID_VALUE;
    if (locked == address) return ALREADY_REGISTERED;
    locked = address;
    size = bytes;
    return OK;
}

CUresult cuMemHostUnregister(void *address) {
    if (!depth) return INVALID_CONTEXT;
    if (locked != address) return NOT_REGISTERED;
    locked = NULL;
    return OK;
}

CUresult cuGetErrorName(CUresult error, const char **name) {
    *name = NULL;
    if (error == NOT_SUPPORTED) *name = "CUDA_ERROR_NOT_SUPPORTED";
    if (error == NOT_REGISTERED) *name = "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED";
    return *name ? OK : INVALID_VALUE;
}
