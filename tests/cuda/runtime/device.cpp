// The CUDA runtime: devices, errors, kernels and their launches.
#include "fake.h"

#include <cstdio>
#include <cstring>
#include <dlfcn.h>

using namespace fake;

// --- devices: all are alike, an H200 as far as anybody asks ---

API cudaError_t cudaGetDeviceCount(int* count) {
    *count = device_count();
    return *count ? cudaSuccess : remember(cudaErrorNoDevice);
}

API cudaError_t cudaGetDevice(int* device) {
    *device = current_device;
    return cudaSuccess;
}

// CUDA: since version 12 this makes the device's context.
API cudaError_t cudaSetDevice(int device) {
    Call call;
    if (device < 0 || device >= device_count())
        return fail(cudaErrorInvalidDevice, "cudaSetDevice(" + std::to_string(device) + ")");
    current_device = device;
    make_context(device, "cudaSetDevice");
    return cudaSuccess;
}

static const struct {
    int threads_of_block = 1024, threads_of_processor = 2048, processors = 132, blocks_of_processor = 32, warp = 32;
    int shared_of_block = 49152, shared_opt_in = 232448, shared_of_processor = 233472, registers = 65536, l2 = 60 << 20;
    size_t memory = 150ull << 30, free_memory = 140ull << 30;
} H200;

API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    memset(properties, 0, sizeof *properties);
    strcpy(properties->name, "NVIDIA H200 (none: fakecuda)");
    properties->totalGlobalMem = H200.memory;
    properties->major = 9;
    properties->multiProcessorCount = H200.processors;
    properties->warpSize = H200.warp;
    properties->maxThreadsPerBlock = H200.threads_of_block;
    properties->maxThreadsPerMultiProcessor = H200.threads_of_processor;
    properties->maxBlocksPerMultiProcessor = H200.blocks_of_processor;
    properties->sharedMemPerBlock = H200.shared_of_block;
    properties->sharedMemPerBlockOptin = H200.shared_opt_in;
    properties->sharedMemPerMultiprocessor = H200.shared_of_processor;
    properties->regsPerBlock = properties->regsPerMultiprocessor = H200.registers;
    properties->l2CacheSize = H200.l2;
    properties->totalConstMem = 65536;
    properties->memoryBusWidth = 6144;
    properties->unifiedAddressing = 1;
    const int threads[] = {1024, 1024, 64}, grid[] = {2147483647, 65535, 65535};
    memcpy(properties->maxThreadsDim, threads, sizeof threads);
    memcpy(properties->maxGridSize, grid, sizeof grid);
    return cudaSuccess;
}

API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock: *value = H200.threads_of_block; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = H200.threads_of_processor; break;
        case cudaDevAttrMultiProcessorCount: *value = H200.processors; break;
        case cudaDevAttrMaxBlocksPerMultiprocessor: *value = H200.blocks_of_processor; break;
        case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
        case cudaDevAttrWarpSize: *value = H200.warp; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = H200.shared_of_block; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = H200.shared_opt_in; break;
        case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: *value = 65535; break;
        case cudaDevAttrL2CacheSize: *value = H200.l2; break;
        default: *value = 0;  // no such ability
    }
    return cudaSuccess;
}

API cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    *free = H200.free_memory;
    *total = H200.memory;
    return cudaSuccess;
}

API cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
    *can = 0;
    return cudaSuccess;
}

API cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return remember(cudaErrorPeerAccessUnsupported); }

API cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
    snprintf(text, size, "0000:%02x:00.0", device);
    return cudaSuccess;
}

API cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return cudaSuccess;
}

API cudaError_t cudaDeviceSynchronize() {
    Call call;
    if (auto error = allowed_now("cudaDeviceSynchronize")) return error;
    note_wait("cudaDeviceSynchronize");
    int device = current_device;
    call.wait([device] {
        bool done = idle(state().legacy[device]);
        for (Stream* stream : state().streams) done &= stream->device != device || idle(*stream);
        return done;
    });
    return cudaSuccess;
}

API cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }

// torch takes some functions of the driver through this; this library is the driver as well.
API cudaError_t cudaGetDriverEntryPointByVersion(
    const char* name, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* status) {
    *function = dlsym(RTLD_DEFAULT, name);
    if (*function == nullptr) *function = dlsym(RTLD_DEFAULT, (std::string(name) + "_v2").c_str());
    if (status) *status = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

API cudaError_t cudaProfilerStart() { return cudaSuccess; }
API cudaError_t cudaProfilerStop() { return cudaSuccess; }

// --- errors, in CUDA's words, which torch repeats ---

using Words = std::map<cudaError_t, std::pair<const char*, const char*>>;
static const Words& ERRORS = *new Words{  // never deleted: threads may ask until the very end
    {cudaSuccess, {"cudaSuccess", "no error"}},
    {cudaErrorInvalidValue, {"cudaErrorInvalidValue", "invalid argument"}},
    {cudaErrorMemoryAllocation, {"cudaErrorMemoryAllocation", "out of memory"}},
    {cudaErrorInvalidDevice, {"cudaErrorInvalidDevice", "invalid device ordinal"}},
    {cudaErrorNoDevice, {"cudaErrorNoDevice", "no CUDA-capable device is detected"}},
    {cudaErrorNotReady, {"cudaErrorNotReady", "device not ready"}},
    {cudaErrorNotSupported, {"cudaErrorNotSupported", "operation not supported"}},
    {cudaErrorStreamCaptureUnsupported,
     {"cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"}},
    {cudaErrorStreamCaptureInvalidated,
     {"cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"}},
    {cudaErrorStreamCaptureMerge,
     {"cudaErrorStreamCaptureMerge", "operation would result in a merge of separate capture sequences"}},
    {cudaErrorStreamCaptureUnjoined,
     {"cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"}},
    {cudaErrorStreamCaptureIsolation,
     {"cudaErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream"}},
    {cudaErrorStreamCaptureImplicit,
     {"cudaErrorStreamCaptureImplicit",
      "operation would make the legacy stream depend on a capturing blocking stream"}},
    {cudaErrorStreamCaptureWrongThread,
     {"cudaErrorStreamCaptureWrongThread", "attempt to terminate a thread-local capture sequence from another thread"}},
    {cudaErrorCapturedEvent,
     {"cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"}},
};

API const char* cudaGetErrorName(cudaError_t error) {
    auto found = ERRORS.find(error);
    return found == ERRORS.end() ? "cudaErrorUnknown" : found->second.first;
}

API const char* cudaGetErrorString(cudaError_t error) {
    auto found = ERRORS.find(error);
    return found == ERRORS.end() ? "unknown error" : found->second.second;
}

API cudaError_t cudaGetLastError() { return take_last_error(true); }
API cudaError_t cudaPeekAtLastError() { return take_last_error(false); }

// --- kernels: what nvcc's code registers as a library is loaded ---

API void** __cudaRegisterFatBinary(void*) {
    static void* handle;
    return &handle;
}
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API char __cudaInitModule(void**) { return 1; }
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
API void __cudaRegisterFunction(
    void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) {
    state().kernels[host] = name;
}

// A launch `kernel<<<grid, block, shared, stream>>>(...)` puts its configuration here, and its stub takes it.
struct Configuration {
    dim3 grid, block;
    size_t shared;
    void* stream;
};
static thread_local std::vector<Configuration> configurations;

API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
    configurations.push_back({grid, block, shared, stream});
    return 0;
}

API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    Configuration one = configurations.back();
    configurations.pop_back();
    *grid = one.grid;
    *block = one.block;
    *shared = one.shared;
    *(void**)stream = one.stream;
    return cudaSuccess;
}

API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
    *kernel = (cudaKernel_t)host;
    return cudaSuccess;
}

// --- launches: only fills are run, by which flags and counters get their first values ---

template <class T>
static Run fill(void** arguments) {
    int count = *(int*)arguments[0];
    T value = *(T*)arguments[1];  // the functor holds the value alone
    T* to = *(T**)arguments[2];   // an array of one pointer
    return [=] { std::fill(to, to + count, value); };
}

// torch's `tensor.fill_(number)`: vectorized_elementwise_kernel<N, FillFunctor<T>, std::array<char*, 1>>(count,
// functor, ...)
static Run effect_of(const std::string& mangled, void** arguments) {
    static const std::string functor = "FillFunctorI";
    auto at = mangled.find(functor);
    if (at == std::string::npos || mangled.find("vectorized_elementwise_kernel") == std::string::npos ||
        mangled.find("St5arrayIPcLm1E") == std::string::npos)
        return nullptr;
    switch (mangled[at + functor.size()]) {  // the mangled name of T
        case 'f': return fill<float>(arguments);
        case 'd': return fill<double>(arguments);
        case 'l': return fill<long>(arguments);
        case 'i': return fill<int>(arguments);
        case 'b':
        case 'h': return fill<char>(arguments);
    }
    return nullptr;
}

static cudaError_t launch(const void* host, void** arguments, cudaStream_t stream) {
    Call call;
    static auto& names = *new std::map<const void*, std::string>;
    const std::string& mangled = state().kernels[host];
    std::string& name = names[host];
    if (name.empty()) name = "kernel " + (mangled.empty() ? "unknown" : demangled(mangled));
    return enqueue(stream, {name, effect_of(mangled, arguments)});
}

API cudaError_t cudaLaunchKernel(const void* host, dim3, dim3, void** arguments, size_t, cudaStream_t stream) {
    return launch(host, arguments, stream);
}

API cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void** arguments, size_t, cudaStream_t stream) {
    return launch((const void*)kernel, arguments, stream);
}

API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* configuration, const void* host, void** arguments) {
    return launch(host, arguments, configuration->stream);
}

API cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
    Call call;
    Stream& stream = stream_of(handle);
    count_launch(stream, "host function");
    if (stream.capture) {
        stream.capture->graph.nodes.push_back({"host function", [=] { function(data); }});
        return cudaSuccess;
    }
    in_turn(stream, [=] { return function(data), true; }, true);
    return cudaSuccess;
}

API cudaError_t cudaStreamAddCallback(cudaStream_t handle, cudaStreamCallback_t function, void* data, unsigned) {
    Call call;
    in_turn(stream_of(handle), [=] { return function(handle, cudaSuccess, data), true; }, true);
    return cudaSuccess;
}

API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = H200.threads_of_block;
    attributes->numRegs = 32;
    attributes->binaryVersion = attributes->ptxVersion = 90;
    attributes->maxDynamicSharedSizeBytes = H200.shared_opt_in;
    return cudaSuccess;
}

API cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
API cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t, cudaFuncAttribute, int, int) { return cudaSuccess; }

API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, const void*, int, size_t, unsigned) {
    return *blocks = 4, cudaSuccess;
}
