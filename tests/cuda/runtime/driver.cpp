// The CUDA driver, as far as torch, Triton and what NVRTC compiles ask for it: contexts, modules, launches.
//
// Triton's kernels are compiled for real, by ptxas; here they are loaded as names.
#include "fake.h"

#include <cstdio>
#include <cstring>
#include <cuda.h>
#include <dlfcn.h>

using namespace fake;

static CUresult of(cudaError_t error) { return (CUresult)error; }  // they are numbered alike

// --- devices and contexts: one context a device, that of the runtime ---

API CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
API CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
API CUresult cuDeviceGet(CUdevice* device, int number) { return *device = number, CUDA_SUCCESS; }
API CUresult cuDeviceGetCount(int* count) { return *count = device_count(), CUDA_SUCCESS; }
API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
    return of(cudaDeviceGetAttribute(value, (cudaDeviceAttr)attribute, device));
}
API CUresult cuDeviceGetName(char* name, int size, CUdevice) {
    return snprintf(name, size, "NVIDIA H200 (none: fakecuda)"), CUDA_SUCCESS;
}
API CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
    memset(uuid, 7, sizeof *uuid);
    uuid->bytes[0] = (char)device;
    return CUDA_SUCCESS;
}

// A context is the address of its device's legacy stream.
static CUcontext context_of(int device) { return (CUcontext)&state().legacy[device]; }

// torch asks, to leave devices alone on which it has no context.
API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    Call call;
    if (flags) *flags = 0;
    return *active = state().contexts.count(device), CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    Call call;
    make_context(device, "cuDevicePrimaryCtxRetain");
    return *context = context_of(device), CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
API CUresult cuCtxGetCurrent(CUcontext* context) { return *context = context_of(current_device), CUDA_SUCCESS; }
API CUresult cuCtxSetCurrent(CUcontext context) {
    if (context) current_device = ((Stream*)context)->device;
    return CUDA_SUCCESS;
}
API CUresult cuCtxGetDevice(CUdevice* device) { return *device = current_device, CUDA_SUCCESS; }
API CUresult cuCtxGetLimit(size_t* value, CUlimit) { return *value = 1 << 20, CUDA_SUCCESS; }
API CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }
API CUresult cuCtxSynchronize() { return of(cudaDeviceSynchronize()); }
API CUresult cuStreamSynchronize(CUstream stream) { return of(cudaStreamSynchronize(stream)); }

API CUresult cuGetErrorString(CUresult error, const char** text) {
    return *text = cudaGetErrorString((cudaError_t)error), CUDA_SUCCESS;
}
API CUresult cuGetErrorName(CUresult error, const char** name) {
    return *name = cudaGetErrorName((cudaError_t)error), CUDA_SUCCESS;
}

// --- memory: Triton asks where an argument lies ---

API CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr pointer) {
    Call call;
    const Block* device = block_at(state().device_memory, (void*)pointer);
    const Block* pinned = block_at(state().pinned_memory, (void*)pointer);
    if (!device && !pinned) return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
        case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext*)value = context_of((device ? device : pinned)->device); break;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
            *(unsigned*)value = device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
            break;
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr*)value = pointer; break;
        case CU_POINTER_ATTRIBUTE_HOST_POINTER: *(void**)value = (void*)pointer; break;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int*)value = (device ? device : pinned)->device; break;
        default: *(unsigned*)value = 0;
    }
    return CUDA_SUCCESS;
}
API CUresult cuPointerGetAttributes(
    unsigned count, CUpointer_attribute* attributes, void** values, CUdeviceptr pointer) {
    for (unsigned i = 0; i < count; i++) cuPointerGetAttribute(values[i], attributes[i], pointer);
    return CUDA_SUCCESS;
}

// --- modules and their functions ---

API CUresult cuModuleLoadData(CUmodule* module, const void*) {
    return *module = (CUmodule) new char, CUDA_SUCCESS;  // a handle that no other one equals
}
API CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    return cuModuleLoadData(module, image);
}
API CUresult cuModuleLoad(CUmodule* module, const char*) { return cuModuleLoadData(module, nullptr); }
API CUresult cuModuleUnload(CUmodule module) { return delete (char*)module, CUDA_SUCCESS; }
API CUresult cuModuleGetFunctionCount(unsigned* count, CUmodule) { return *count = 1, CUDA_SUCCESS; }
API CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
    return *function = (CUfunction) new std::string(std::string("kernel ") + name), CUDA_SUCCESS;
}
API CUresult cuFuncLoad(CUfunction) { return CUDA_SUCCESS; }
API CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
API CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
API CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return *value = 1024, CUDA_SUCCESS;
        case CU_FUNC_ATTRIBUTE_NUM_REGS: return *value = 32, CUDA_SUCCESS;
        default: return *value = 0, CUDA_SUCCESS;
    }
}
API CUresult cuOccupancyMaxActiveClusters(int* count, CUfunction, const CUlaunchConfig*) {
    return *count = 16, CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* count, CUfunction, int, size_t) {
    return *count = 4, CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* count, CUfunction, int, size_t, unsigned) {
    return *count = 4, CUDA_SUCCESS;
}
API CUresult cuTensorMapEncodeTiled(
    CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
    const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    return CUDA_SUCCESS;
}

// --- launches ---

static CUresult launch(CUfunction function, CUstream stream) {
    Call call;
    return of(enqueue(stream, {*(std::string*)function}));
}
API CUresult cuLaunchKernel(
    CUfunction function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream stream, void**,
    void**) {
    return launch(function, stream);
}
API CUresult cuLaunchKernelEx(const CUlaunchConfig* configuration, CUfunction function, void**, void**) {
    return launch(function, configuration->hStream);
}
API CUresult cuLaunchCooperativeKernel(
    CUfunction function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream stream,
    void**) {
    return launch(function, stream);
}

// --- the functions by their names ---

API CUresult cuGetProcAddress_v2(
    const char* name, void** function, int, cuuint64_t, CUdriverProcAddressQueryResult* result) {
    cudaDriverEntryPointQueryResult found;
    cudaGetDriverEntryPointByVersion(name, function, 0, 0, &found);
    if (result) *result = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
#undef cuGetProcAddress
API CUresult cuGetProcAddress(const char* name, void** function, int version, cuuint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}
