// A CUDA runtime, cuBLAS and NCCL for machines without a GPU: device memory is host memory, copies and memsets are made, kernels
// are counted and not run, captures are checked against CUDA's rules, NCCL works through shared memory. LD_PRELOAD it.
// What it cannot show: values, speed, cuDNN, anything below the runtime.
#define __CUDA_API_PER_THREAD_DEFAULT_STREAM_OFF
#include <cuda_runtime_api.h>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <functional>
#include <time.h>
#include <algorithm>
#include <stdint.h>
#define API extern "C" __attribute__((visibility("default")))

namespace {
std::recursive_mutex lock;
struct Node { std::string what; std::function<void()> run; };
struct Graph { std::vector<Node> nodes; unsigned long long id; int nccl = 0; };
struct Exec { Graph graph; unsigned long long id; };
struct Stream { int device; bool nonblocking; Graph* graph = nullptr; unsigned long long capture = 0; cudaStreamCaptureMode mode; std::thread::id owner; bool origin = false; bool invalid = false; };
struct Event { Graph* graph = nullptr; unsigned long long capture = 0; bool recorded = false; double at = 0; };
std::map<const void*, std::string> kernels;
std::map<std::string, long> counts;      // everything since the last reset
std::map<char*, std::pair<size_t, int>> device_memory, pinned;
std::set<Stream*> streams;
std::set<Exec*> execs;
unsigned long long next_id = 1;
long violations = 0, mallocs = 0;
std::string log_text;
Stream legacy[16];
thread_local int device = 0;
thread_local cudaError_t last = cudaSuccess;
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
int ndev() { static int n = getenv("FAKE_CUDA_DEVICES") ? atoi(getenv("FAKE_CUDA_DEVICES")) : 1; return n; }
bool tracing() { static bool t = getenv("FAKE_CUDA_STACK"); return t; }
void stack() {
    if (!tracing()) return;
    auto init = (int (*)())dlsym(RTLD_DEFAULT, "Py_IsInitialized");
    if (!init || !init()) return;
    auto ensure = (int (*)())dlsym(RTLD_DEFAULT, "PyGILState_Ensure");
    auto release = (void (*)(int))dlsym(RTLD_DEFAULT, "PyGILState_Release");
    auto run = (int (*)(const char*, void*))dlsym(RTLD_DEFAULT, "PyRun_SimpleStringFlags");
    int s = ensure();
    run("import traceback,sys; sys.stderr.write(''.join(l for l in traceback.format_stack()[:-1] if 'site-packages' not in l)[-1500:])", nullptr);
    release(s);
}
std::map<std::string, long> waits, waits_elsewhere, launches, captured, copies;
std::vector<std::string> violation_texts;
std::set<int> touched;
struct Past { unsigned long long id; std::vector<std::string> nodes; int collectives; long replays; bool alive; };
std::map<unsigned long long, Past> graphs;
std::map<std::string, std::vector<std::pair<std::string, long>>> orders;
bool stepping = false;
const char* ended = nullptr;
void write_report();
bool elsewhere() { char name[17] = {0}; prctl(PR_GET_NAME, name); return gettid() != getpid() && strncmp(name, "pt_autograd", 11); }
void note(const std::string& what) { counts[what]++; }
void waited(const std::string& what) { touched.insert(device); if (elsewhere()) waits_elsewhere[what]++; else { waits[what]++; if (stepping) { violations++; violation_texts.push_back("wait in a step: " + what); write_report(); } } }
std::string kind_of_work(const std::string& what) { return what.compare(0, 6, "kernel") == 0 ? "kernels" : what.compare(0, 7, "product") == 0 ? "products" : what.compare(0, 4, "copy") == 0 ? "copies" : what.compare(0, 6, "memset") == 0 ? "memsets" : what.compare(0, 4, "nccl") == 0 ? "collectives" : what.compare(0, 5, "graph") == 0 ? "graphs" : "host functions"; }
void say(const std::string& line) { log_text += line + "\n"; if (getenv("FAKE_CUDA_VERBOSE")) { fprintf(stderr, "[fakecuda %d dev %d] %s\n", getpid(), device, line.c_str()); stack(); } }
cudaError_t fail(cudaError_t e, const std::string& why) { violations++; violation_texts.push_back(why); write_report(); say("VIOLATION " + why + " (" + std::to_string((int)e) + ")"); last = e; return e; }
Stream* of(cudaStream_t s) {
    if (s == nullptr || s == (cudaStream_t)1 || s == (cudaStream_t)2) return &legacy[device];
    return (Stream*)s;
}
// Is this thread forbidden to make calls that may be unsafe during a capture?
Stream* forbidding() {
    if (thread_mode == cudaStreamCaptureModeRelaxed) return nullptr;
    for (Stream* s : streams)
        if (s->graph && s->origin) {
            bool mine = s->owner == std::this_thread::get_id();
            if (mine && s->mode != cudaStreamCaptureModeRelaxed) return s;
            if (!mine && s->mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal) return s;
        }
    return nullptr;
}
cudaError_t unsafe(const char* call) {
    if (Stream* s = forbidding()) { s->invalid = true; return fail(cudaErrorStreamCaptureUnsupported, std::string(call) + " during a capture"); }
    return cudaSuccess;
}
// Work enters a stream.
cudaError_t work(cudaStream_t h, std::string what, std::function<void()> run = nullptr) {
    std::lock_guard<std::recursive_mutex> g(lock);
    Stream* s = of(h);
    note(what);
    touched.insert(s->device);
    (s->graph ? captured : launches)[kind_of_work(what)]++;
    if (s->device != device && h) { violations++; violation_texts.push_back("wrong device: " + what + " on a stream of device " + std::to_string(s->device)); }
    if (s->graph) { s->graph->nodes.push_back({what, run}); return cudaSuccess; }
    if (s == &legacy[device])
        for (Stream* o : streams) if (o->graph && o->device == device && !o->nonblocking) { o->invalid = true; return fail(cudaErrorStreamCaptureImplicit, what + " on the legacy stream during a capture"); }
    if (run) run();
    return cudaSuccess;
}
std::string demangled(const std::string& name) { return name; }
bool is_device(const void* p) { auto i = device_memory.upper_bound((char*)p); if (i == device_memory.begin()) return false; --i; return (char*)p < i->first + i->second.first; }
int device_of(const void* p) { auto i = device_memory.upper_bound((char*)p); if (i == device_memory.begin()) return -1; --i; return (char*)p < i->first + i->second.first ? i->second.second : -1; }
bool is_pinned(const void* p) { auto i = pinned.upper_bound((char*)p); if (i == pinned.begin()) return false; --i; return (char*)p < i->first + i->second.first; }
__attribute__((constructor)) void start() { for (int i = 0; i < 16; i++) legacy[i].device = i; }
double now() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec * 1e-6; }
}  // namespace

// --- asked by scripts, through ctypes ---
API void fake_reset() { std::lock_guard<std::recursive_mutex> g(lock); counts.clear(); }
API const char* fake_counts() { std::lock_guard<std::recursive_mutex> g(lock); static std::string out; out.clear(); for (auto& [k, v] : counts) out += std::to_string(v) + "\t" + k + "\n"; return out.c_str(); }
API const char* fake_graphs() { std::lock_guard<std::recursive_mutex> g(lock); static std::string out; out.clear(); for (Exec* e : execs) { out += "graph " + std::to_string(e->id) + " nodes " + std::to_string(e->graph.nodes.size()) + " nccl " + std::to_string(e->graph.nccl) + "\n"; } return out.c_str(); }
API const char* fake_nodes(int which) { std::lock_guard<std::recursive_mutex> g(lock); static std::string out; out.clear(); int i = 0; for (Exec* e : execs) if (i++ == which) for (auto& n : e->graph.nodes) out += n.what + "\n"; return out.c_str(); }
API long fake_violations() { return violations; }
API const char* fake_log() { return log_text.c_str(); }

static std::string quoted(const std::string& s) { std::string o = "\""; for (char c : s) { if (c == '"' || c == '\\') o += '\\'; o += (unsigned char)c < 32 ? ' ' : c; } return o + "\""; }
template <class M> static std::string object(const M& m) { std::string o; for (auto& [k, v] : m) o += (o.empty() ? "" : ", ") + quoted(k) + ": " + std::to_string(v); return "{" + o + "}"; }
static std::string report() {
    std::string o = "{\"pid\": " + std::to_string(getpid()) + ", \"rank\": " + (getenv("RANK") ? getenv("RANK") : "null") + ", \"devices\": " + std::to_string(ndev());
    o += std::string(", \"ended\": ") + (ended ? quoted(ended) : "null");
    o += ", \"launches\": " + object(launches) + ", \"captured\": " + object(captured) + ", \"names\": " + object(counts);
    o += ", \"readbacks\": " + object(waits) + ", \"readbacks_of_other_threads\": " + object(waits_elsewhere) + ", \"copies\": " + object(copies);
    std::string list;
    for (auto& [id, past] : graphs) { std::string nodes; for (auto& n : past.nodes) nodes += (nodes.empty() ? "" : ", ") + quoted(n); list += std::string(list.empty() ? "" : ", ") + "{\"id\": " + std::to_string(id) + ", \"alive\": " + (past.alive ? "true" : "false") + ", \"replays\": " + std::to_string(past.replays) + ", \"collectives\": " + std::to_string(past.collectives) + ", \"nodes\": [" + nodes + "]}"; }
    o += ", \"graphs\": [" + list + "]"; list.clear();
    for (auto& v : violation_texts) list += (list.empty() ? "" : ", ") + std::string("{\"what\": ") + quoted(v) + ", \"where\": \"\"}";
    o += ", \"violations\": [" + list + "]"; list.clear();
    for (int d : touched) list += (list.empty() ? "" : ", ") + std::to_string(d);
    o += ", \"touched\": [" + list + "]"; list.clear();
    for (auto& [name, order] : orders) { std::string calls; for (auto& [what, n] : order) calls += (calls.empty() ? "" : ", ") + ("[" + quoted(what) + ", " + std::to_string(n) + "]"); list += (list.empty() ? "" : ", ") + quoted(name) + ": [" + calls + "]"; }
    return o + ", \"communicators\": {" + list + "}}";
}
namespace { void write_report() {
    const char* base = getenv("FAKE_CUDA_REPORT");
    if (!base || !*base || touched.empty()) return;
    std::string path = std::string(base) + "." + std::to_string(getpid()) + ".json", half = path + ".half";
    if (FILE* f = fopen(half.c_str(), "w")) { auto text = report(); fwrite(text.data(), 1, text.size(), f); fclose(f); rename(half.c_str(), path.c_str()); }
} }
__attribute__((destructor)) static void finish() { if (!ended) ended = "exit"; write_report(); }
API void _exit(int code) { if (!ended) ended = "_exit"; write_report(); syscall(SYS_exit_group, code); __builtin_unreachable(); }
API const char* fakecuda_report() { std::lock_guard<std::recursive_mutex> g(lock); static std::string out; out = report(); return out.c_str(); }
API void fakecuda_reset() { std::lock_guard<std::recursive_mutex> g(lock); counts.clear(); launches.clear(); captured.clear(); waits.clear(); waits_elsewhere.clear(); copies.clear(); }
API void fakecuda_step(int on) { stepping = on; }

// --- registration, launches ---
API void** __cudaRegisterFatBinary(void*) { static void* h; return &h; }
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) { kernels[host] = name; }
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
struct Configuration { dim3 grid, block; size_t shared; void* stream; };
static thread_local std::vector<Configuration> configurations;
API unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t m, void* s) { configurations.push_back({g, b, m, s}); return 0; }
API cudaError_t __cudaPopCallConfiguration(dim3* g, dim3* b, size_t* m, void* s) { auto c = configurations.back(); configurations.pop_back(); *g = c.grid; *b = c.block; *m = c.shared; *(void**)s = c.stream; return cudaSuccess; }
API cudaError_t __cudaGetKernel(cudaKernel_t* k, const void* f) { *k = (cudaKernel_t)f; return cudaSuccess; }
static std::string name_of(const void* f) { auto i = kernels.find(f); return "kernel " + (i == kernels.end() ? std::string("?") : i->second); }
// The one kernel that is run: fill, by which flags get their first values.
template <class T> static std::function<void()> fill(void** a) { int n = *(int*)a[0]; T v = *(T*)a[1]; T* p = *(T**)a[2]; return [=] { for (int i = 0; i < n; i++) p[i] = v; }; }
static std::function<void()> effect(const std::string& name, void** a) {
    auto at = name.find("vectorized_elementwise_kernel"), f = name.find("FillFunctorI");
    if (at == std::string::npos || f == std::string::npos || name.find("St5arrayIPcLm1E") == std::string::npos) return nullptr;
    switch (name[f + 12]) { case 'f': return fill<float>(a); case 'd': return fill<double>(a); case 'l': return fill<long>(a); case 'i': return fill<int>(a); case 'b': case 'h': return fill<char>(a); }
    return nullptr;
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3, dim3, void** a, size_t, cudaStream_t s) { auto n = name_of((void*)k); return work(s, n, effect(n, a)); }
API cudaError_t cudaLaunchKernel(const void* f, dim3, dim3, void** a, size_t, cudaStream_t s) { auto n = name_of(f); return work(s, n, effect(n, a)); }
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void**) { return work(c->stream, name_of(f)); }
API cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void* p) { return work(s, "host function", [=] { f(p); }); }
API cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t f, void* p, unsigned) { f(s, cudaSuccess, p); return cudaSuccess; }
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) { memset(a, 0, sizeof *a); a->maxThreadsPerBlock = 1024; a->numRegs = 32; a->binaryVersion = 90; a->ptxVersion = 90; a->maxDynamicSharedSizeBytes = 232448; return cudaSuccess; }
API cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
API cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t, cudaFuncAttribute, int, int) { return cudaSuccess; }
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) { *n = 4; return cudaSuccess; }

// --- devices ---
API cudaError_t cudaGetDeviceCount(int* n) { *n = ndev(); return cudaSuccess; }
API cudaError_t cudaGetDevice(int* d) { *d = device; return cudaSuccess; }
API cudaError_t cudaSetDevice(int d) { if (d < 0 || d >= ndev()) return fail(cudaErrorInvalidDevice, "cudaSetDevice " + std::to_string(d)); device = d; return cudaSuccess; }
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "NVIDIA H200 (none: fakecuda)");
    p->totalGlobalMem = 150ull << 30; p->sharedMemPerBlock = 49152; p->regsPerBlock = 65536; p->warpSize = 32; p->maxThreadsPerBlock = 1024;
    for (int i = 0; i < 3; i++) { p->maxThreadsDim[i] = i < 2 ? 1024 : 64; p->maxGridSize[i] = i ? 65535 : 2147483647; }
    p->totalConstMem = 65536; p->major = 9; p->minor = 0; p->multiProcessorCount = 132; p->l2CacheSize = 60 << 20; p->maxThreadsPerMultiProcessor = 2048;
    p->sharedMemPerMultiprocessor = 233472; p->regsPerMultiprocessor = 65536; p->sharedMemPerBlockOptin = 232448; p->maxBlocksPerMultiProcessor = 32; p->unifiedAddressing = 1; p->memoryBusWidth = 6144;
    return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
    switch (a) {
        case cudaDevAttrMaxThreadsPerBlock: *v = 1024; break;
        case cudaDevAttrMultiProcessorCount: *v = 132; break;
        case cudaDevAttrComputeCapabilityMajor: *v = 9; break;
        case cudaDevAttrComputeCapabilityMinor: *v = 0; break;
        case cudaDevAttrWarpSize: *v = 32; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *v = 49152; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = 232448; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *v = 2048; break;
        case cudaDevAttrMaxGridDimX: *v = 2147483647; break;
        case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *v = 65535; break;
        case cudaDevAttrL2CacheSize: *v = 60 << 20; break;
        default: *v = 0;
    }
    return cudaSuccess;
}
API cudaError_t cudaDeviceCanAccessPeer(int* v, int, int) { *v = 0; return cudaSuccess; }
API cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
API cudaError_t cudaDeviceGetPCIBusId(char* s, int n, int d) { snprintf(s, n, "0000:%02x:00.0", d); return cudaSuccess; }
API cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { if (least) *least = 0; if (greatest) *greatest = -5; return cudaSuccess; }
API cudaError_t cudaDeviceSynchronize() { std::lock_guard<std::recursive_mutex> g(lock); note("SYNC device"); waited("cudaDeviceSynchronize"); return unsafe("cudaDeviceSynchronize"); }
API cudaError_t cudaDriverGetVersion(int* v) { *v = 13000; return cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int* v) { *v = 13000; return cudaSuccess; }
API cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** f, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* status) {
    *f = dlsym(RTLD_DEFAULT, name);
    if (!*f) { char other[200]; snprintf(other, sizeof other, "%s_v2", name); *f = dlsym(RTLD_DEFAULT, other); }
    if (status) *status = *f ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
API const char* cudaGetErrorName(cudaError_t e) { static thread_local char s[40]; snprintf(s, sizeof s, "fake error %d", (int)e); return s; }
API const char* cudaGetErrorString(cudaError_t e) { static thread_local char s[60]; snprintf(s, sizeof s, e == cudaErrorStreamCaptureInvalidated ? "operation failed due to a previous error during capture" : e == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing" : "fake error %d", (int)e); return s; }
API cudaError_t cudaGetLastError() { auto e = last; last = cudaSuccess; return e; }
API cudaError_t cudaPeekAtLastError() { return last; }
API cudaError_t cudaProfilerStart() { return cudaSuccess; }
API cudaError_t cudaProfilerStop() { return cudaSuccess; }

// --- memory ---
API cudaError_t cudaMalloc(void** p, size_t n) {
    std::lock_guard<std::recursive_mutex> g(lock);
    if (auto e = unsafe("cudaMalloc")) return e;
    note("cudaMalloc"); mallocs++;
    void* m = mmap(nullptr, n ? n : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) return fail(cudaErrorMemoryAllocation, "out of memory");
    device_memory[(char*)m] = {n, device};
    *p = m;
    return cudaSuccess;
}
API cudaError_t cudaFree(void* p) {
    std::lock_guard<std::recursive_mutex> g(lock);
    if (auto e = unsafe("cudaFree")) return e;
    note("cudaFree");
    auto i = device_memory.find((char*)p);
    if (i != device_memory.end()) { munmap(p, i->second.first ? i->second.first : 1); device_memory.erase(i); }
    return cudaSuccess;
}
API cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t) { return cudaMalloc(p, n); }
API cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return cudaFree(p); }
API cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) {
    std::lock_guard<std::recursive_mutex> g(lock);
    if (auto e = unsafe("cudaHostAlloc")) return e;
    note("cudaHostAlloc");
    *p = calloc(1, n ? n : 1);
    pinned[(char*)*p] = {n, device};
    if (device != 0) {}  // the context it belongs to: shown by the counts of each device
    return cudaSuccess;
}
API cudaError_t cudaFreeHost(void* p) { std::lock_guard<std::recursive_mutex> g(lock); if (auto e = unsafe("cudaFreeHost")) return e; note("cudaFreeHost"); pinned.erase((char*)p); free(p); return cudaSuccess; }
API cudaError_t cudaHostRegister(void* p, size_t n, unsigned) { std::lock_guard<std::recursive_mutex> g(lock); pinned[(char*)p] = {n, device}; return cudaSuccess; }
API cudaError_t cudaHostUnregister(void* p) { std::lock_guard<std::recursive_mutex> g(lock); pinned.erase((char*)p); return cudaSuccess; }
API cudaError_t cudaMemGetInfo(size_t* f, size_t* t) { *f = 140ull << 30; *t = 150ull << 30; return cudaSuccess; }
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
    std::lock_guard<std::recursive_mutex> g(lock);
    memset(a, 0, sizeof *a);
    if (is_device(p)) { a->type = cudaMemoryTypeDevice; a->device = device_of(p); a->devicePointer = (void*)p; }
    else if (is_pinned(p)) { a->type = cudaMemoryTypeHost; a->hostPointer = (void*)p; a->devicePointer = (void*)p; }
    else { a->type = cudaMemoryTypeUnregistered; a->hostPointer = (void*)p; }
    return cudaSuccess;
}
static std::string kind_of(const void* to, const void* from) {
    auto place = [](const void* p) { return is_device(p) ? "device" : is_pinned(p) ? "pinned" : "pageable"; };
    return std::string("copy ") + place(from) + " to " + place(to);
}
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t s) {
    std::lock_guard<std::recursive_mutex> g(lock);
    std::string what = kind_of(to, from);
    copies[what.substr(5)]++;
    if (stepping && !elsewhere() && what.find("pageable") != std::string::npos) { violations++; violation_texts.push_back("pageable copy in a step: " + what); write_report(); }
    if (of(s)->graph && what.find("pageable") != std::string::npos) { of(s)->invalid = true; return fail(cudaErrorStreamCaptureUnsupported, what + " in a capture"); }
    return work(s, what, [=] { memcpy(to, from, n); });
}
API cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) { std::lock_guard<std::recursive_mutex> g(lock); if (auto e = unsafe("cudaMemcpy")) return e; note("SYNC memcpy"); waited("cudaMemcpy"); memcpy(to, from, n); return cudaSuccess; }
API cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t n, cudaStream_t s) { return work(s, "copy peer", [=] { memcpy(to, from, n); }); }
API cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }
API cudaError_t cudaGetSymbolAddress(void** p, const void*) { static char room[1 << 16]; *p = room; return cudaSuccess; }
API cudaError_t cudaMemset(void* p, int v, size_t n) { note("SYNC memset"); waited("cudaMemset"); memset(p, v, n); return cudaSuccess; }
API cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t s) { return work(s, "memset", [=] { memset(p, v, n); }); }
API cudaError_t cudaIpcCloseMemHandle(void*) { return cudaErrorNotSupported; }
API cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t*, cudaEvent_t) { return cudaErrorNotSupported; }
API cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t*, void*) { return cudaErrorNotSupported; }
API cudaError_t cudaIpcOpenEventHandle(cudaEvent_t*, cudaIpcEventHandle_t) { return cudaErrorNotSupported; }
API cudaError_t cudaIpcOpenMemHandle(void**, cudaIpcMemHandle_t, unsigned) { return cudaErrorNotSupported; }
API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* p, int) { *p = nullptr; return cudaSuccess; }
API cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType, void* v) { *(unsigned long long*)v = 0; return cudaSuccess; }
API cudaError_t cudaDeviceSetGraphMemAttribute(int, cudaGraphMemAttributeType, void*) { return cudaSuccess; }
API cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* v) { *(unsigned long long*)v = 0; return cudaSuccess; }
API cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
API cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const cudaMemAccessDesc*, size_t) { return cudaSuccess; }
API cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
API cudaError_t cudaLibraryGetKernel(cudaKernel_t*, cudaLibrary_t, const char*) { return cudaErrorNotSupported; }
API cudaError_t cudaLibraryLoadData(cudaLibrary_t*, const void*, cudaJitOption*, void**, unsigned, cudaLibraryOption*, void**, unsigned) { return cudaErrorNotSupported; }
API cudaError_t cudaLibraryUnload(cudaLibrary_t) { return cudaSuccess; }

// --- streams, events ---
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned flags, int) { std::lock_guard<std::recursive_mutex> g(lock); auto n = new Stream; n->device = device; n->nonblocking = flags & cudaStreamNonBlocking; streams.insert(n); *s = (cudaStream_t)n; note("stream created"); return cudaSuccess; }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned flags) { return cudaStreamCreateWithPriority(s, flags, 0); }
API cudaError_t cudaStreamCreate(cudaStream_t* s) { return cudaStreamCreateWithPriority(s, 0, 0); }
API cudaError_t cudaStreamDestroy(cudaStream_t s) { std::lock_guard<std::recursive_mutex> g(lock); streams.erase((Stream*)s); return cudaSuccess; }
API cudaError_t cudaStreamGetPriority(cudaStream_t, int* p) { *p = 0; return cudaSuccess; }
API cudaError_t cudaStreamSynchronize(cudaStream_t h) {
    std::lock_guard<std::recursive_mutex> g(lock);
    note("SYNC stream"); waited("cudaStreamSynchronize");
    if (getenv("FAKE_CUDA_SYNCS")) { say("sync"); }
    if (of(h)->graph) { of(h)->invalid = true; return fail(cudaErrorStreamCaptureUnsupported, "cudaStreamSynchronize of a capturing stream"); }
    return unsafe("cudaStreamSynchronize");
}
API cudaError_t cudaStreamQuery(cudaStream_t h) { std::lock_guard<std::recursive_mutex> g(lock); if (of(h)->graph) { of(h)->invalid = true; return fail(cudaErrorStreamCaptureUnsupported, "cudaStreamQuery of a capturing stream"); } return unsafe("cudaStreamQuery"); }
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { *e = (cudaEvent_t) new Event; return cudaSuccess; }
API cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
API cudaError_t cudaEventDestroy(cudaEvent_t e) { delete (Event*)e; return cudaSuccess; }
API cudaError_t cudaEventRecord(cudaEvent_t h, cudaStream_t s) { std::lock_guard<std::recursive_mutex> g(lock); auto e = (Event*)h; e->graph = of(s)->graph; e->capture = of(s)->capture; e->recorded = true; e->at = now(); return cudaSuccess; }
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned) { return cudaEventRecord(e, s); }
API cudaError_t cudaEventQuery(cudaEvent_t h) { std::lock_guard<std::recursive_mutex> g(lock); auto e = (Event*)h; if (e->graph) return fail(cudaErrorCapturedEvent, "cudaEventQuery of a captured event"); return unsafe("cudaEventQuery"); }
API cudaError_t cudaEventSynchronize(cudaEvent_t h) { std::lock_guard<std::recursive_mutex> g(lock); note("SYNC event"); waited("cudaEventSynchronize"); auto e = (Event*)h; if (e->graph) return fail(cudaErrorCapturedEvent, "cudaEventSynchronize of a captured event"); return unsafe("cudaEventSynchronize"); }
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) { *ms = (float)(((Event*)b)->at - ((Event*)a)->at) + 1e-3f; return cudaSuccess; }
API cudaError_t cudaStreamWaitEvent(cudaStream_t h, cudaEvent_t v, unsigned) {
    std::lock_guard<std::recursive_mutex> g(lock);
    Stream* s = of(h); auto e = (Event*)v;
    bool alive = false;
    for (Stream* o : streams) alive |= e->graph && o->graph == e->graph && o->capture == e->capture;
    if (e->graph && alive && !s->graph) { s->graph = e->graph; s->capture = e->capture; s->origin = false; s->owner = std::this_thread::get_id(); for (Stream* o : streams) if (o->graph == e->graph && o->origin) s->mode = o->mode; return cudaSuccess; }
    if (!e->graph && s->graph && e->recorded) { s->invalid = true; return fail(cudaErrorStreamCaptureIsolation, "a capturing stream waits for work outside of the capture"); }
    return cudaSuccess;
}

// --- graphs ---
API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* m) { std::swap(*m, thread_mode); return cudaSuccess; }
API cudaError_t cudaStreamBeginCapture(cudaStream_t h, cudaStreamCaptureMode mode) {
    std::lock_guard<std::recursive_mutex> g(lock);
    Stream* s = of(h);
    if (s == &legacy[device]) return fail(cudaErrorStreamCaptureUnsupported, "capture of the legacy stream");
    if (s->graph) return fail(cudaErrorIllegalState, "a capture within a capture");
    s->graph = new Graph; s->capture = s->graph->id = next_id++; s->mode = mode; s->owner = std::this_thread::get_id(); s->origin = true; s->invalid = false;
    return cudaSuccess;
}
API cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t s, cudaGraph_t, const cudaGraphNode_t*, const cudaGraphEdgeData*, size_t, cudaStreamCaptureMode m) { return cudaStreamBeginCapture(s, m); }
API cudaError_t cudaStreamEndCapture(cudaStream_t h, cudaGraph_t* out) {
    std::lock_guard<std::recursive_mutex> g(lock);
    Stream* s = of(h);
    if (!s->graph) { *out = nullptr; return fail(cudaErrorIllegalState, "end of no capture"); }
    Graph* graph = s->graph; bool invalid = s->invalid;
    for (Stream* o : streams) if (o->graph == graph) { invalid |= o->invalid; o->graph = nullptr; o->capture = 0; o->invalid = o->origin = false; }
    if (invalid) { *out = nullptr; delete graph; last = cudaErrorStreamCaptureInvalidated; return last; }
    *out = (cudaGraph_t)graph;
    return cudaSuccess;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t h, cudaStreamCaptureStatus* st) { std::lock_guard<std::recursive_mutex> g(lock); Stream* s = of(h); *st = !s->graph ? cudaStreamCaptureStatusNone : s->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive; return cudaSuccess; }
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t h, cudaStreamCaptureStatus* st, unsigned long long* id, cudaGraph_t* graph, const cudaGraphNode_t** deps, const cudaGraphEdgeData** edges, size_t* n) {
    std::lock_guard<std::recursive_mutex> g(lock);
    Stream* s = of(h);
    *st = !s->graph ? cudaStreamCaptureStatusNone : s->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    if (id) *id = s->capture;
    if (graph) *graph = (cudaGraph_t)s->graph;
    if (deps) *deps = nullptr;
    if (edges) *edges = nullptr;
    if (n) *n = 0;
    return cudaSuccess;
}
API cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t, cudaGraphNode_t*, const cudaGraphEdgeData*, size_t, unsigned) { return cudaSuccess; }
API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t h, unsigned long long) { std::lock_guard<std::recursive_mutex> g(lock); auto e = new Exec{*(Graph*)h, ((Graph*)h)->id}; execs.insert(e); *out = (cudaGraphExec_t)e; note("graph instantiated"); { Past past{e->id, {}, e->graph.nccl, 0, true}; for (auto& n : e->graph.nodes) past.nodes.push_back(n.what); graphs[e->id] = past; } return cudaSuccess; }
API cudaError_t cudaGraphLaunch(cudaGraphExec_t h, cudaStream_t s) {
    auto e = (Exec*)h;
    { std::lock_guard<std::recursive_mutex> g(lock); note("graph launched"); launches["graphs"]++; graphs[e->id].replays++; if (of(s)->graph) return fail(cudaErrorStreamCaptureUnsupported, "graph launched in a capture"); }
    for (auto& n : e->graph.nodes) if (n.run) n.run();
    return cudaSuccess;
}
API cudaError_t cudaGraphDestroy(cudaGraph_t h) { delete (Graph*)h; return cudaSuccess; }
API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t h) { std::lock_guard<std::recursive_mutex> g(lock); execs.erase((Exec*)h); graphs[((Exec*)h)->id].alive = false; note("graph destroyed"); delete (Exec*)h; return cudaSuccess; }
API cudaError_t cudaGraphGetNodes(cudaGraph_t h, cudaGraphNode_t*, size_t* n) { *n = ((Graph*)h)->nodes.size(); return cudaSuccess; }
API cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t, cudaGraphNode_t*, cudaGraphEdgeData*, size_t* n) { *n = 0; return cudaSuccess; }
API cudaError_t cudaGraphRetainUserObject(cudaGraph_t, cudaUserObject_t, unsigned, unsigned) { return cudaSuccess; }
API cudaError_t cudaUserObjectCreate(cudaUserObject_t* o, void*, cudaHostFn_t, unsigned, unsigned) { *o = (cudaUserObject_t) new int; return cudaSuccess; }
API cudaError_t cudaUserObjectRelease(cudaUserObject_t, unsigned) { return cudaSuccess; }
API cudaError_t cudaGraphAddNode(cudaGraphNode_t*, cudaGraph_t, const cudaGraphNode_t*, const cudaGraphEdgeData*, size_t, cudaGraphNodeParams*) { return cudaErrorNotSupported; }
API cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle*, cudaGraph_t, unsigned, unsigned) { return cudaErrorNotSupported; }

// --- cuBLAS: counted ---
static std::map<void*, cudaStream_t> handle_stream;
#define OK0(name) API int name(...) { return 0; }
API int cublasCreate_v2(void** h) { if (unsafe("cublasCreate")) return 1; *h = calloc(1, 64); note("cublasCreate"); return 0; }
OK0(cublasDestroy_v2) OK0(cublasSetWorkspace_v2) OK0(cublasSetMathMode) OK0(cublasSetPointerMode_v2) OK0(cublasSetSmCountTarget)
API int cublasSetStream_v2(void* h, cudaStream_t s) { std::lock_guard<std::recursive_mutex> g(lock); handle_stream[h] = s; return 0; }
API int cublasGetMathMode(void*, int* m) { *m = 0; return 0; }
API int cublasGetPointerMode_v2(void*, int* m) { *m = 0; return 0; }
#define GEMM(name) API int name(void* h, ...) { return work(handle_stream[h], "product " #name) ? 1 : 0; }
GEMM(cublasSgemm_v2) GEMM(cublasDgemm_v2) GEMM(cublasGemmEx) GEMM(cublasGemmStridedBatchedEx) GEMM(cublasSgemmStridedBatched) GEMM(cublasDgemmStridedBatched)
GEMM(cublasSgemmEx) GEMM(cublasSdot_v2) GEMM(cublasDdot_v2) GEMM(cublasDotEx) GEMM(cublasSgemv_v2) GEMM(cublasDgemv_v2) GEMM(cublasStrsmBatched) GEMM(cublasDtrsmBatched) GEMM(cublasStrsm_v2) GEMM(cublasDtrsm_v2)
#define MAKE(name) API int name(void** p, ...) { *p = calloc(1, 512); return 0; }
API int cublasLtMatmulDescCreate(void** p, int, int) { *p = calloc(1, 512); return 0; }
API int cublasLtMatrixLayoutCreate(void** p, int, unsigned long, unsigned long, long) { *p = calloc(1, 512); return 0; }
API int cublasLtMatmulPreferenceCreate(void** p) { *p = calloc(1, 512); return 0; }
API int cublasLtMatmulDescDestroy(void* p) { free(p); return 0; }
API int cublasLtMatrixLayoutDestroy(void* p) { free(p); return 0; }
API int cublasLtMatmulPreferenceDestroy(void* p) { free(p); return 0; }
OK0(cublasLtMatmulDescSetAttribute) OK0(cublasLtMatrixLayoutSetAttribute) OK0(cublasLtMatmulPreferenceSetAttribute)
struct Heuristic { unsigned long algo[8]; size_t workspace; int state; float waves; int reserved[4]; };
API int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, Heuristic* r, int* n) { memset(r, 0, sizeof *r); *n = 1; return 0; }
API int cublasLtMatmul(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*, void*, void*, const void*, void*, size_t, cudaStream_t s) { return work(s, "product cublasLtMatmul") ? 1 : 0; }

// --- NCCL, through shared memory ---
struct Board { std::atomic<int> joined, arrived; std::atomic<unsigned> turn; };
struct Comm { int rank, size, dev; Board* board; char* slots; size_t slot; std::string name; bool aborted = false; long calls = 0; };
static std::set<Comm*> comms;
static const size_t SLOT = 64ull << 20;
static void meet(Comm* c) {
    unsigned turn = c->board->turn.load();
    if (c->board->arrived.fetch_add(1) + 1 == c->size) { c->board->arrived = 0; c->board->turn.fetch_add(1); }
    else { long spins = 0; while (c->board->turn.load() == turn && !c->aborted) { usleep(50); if (++spins % 200000 == 0) fprintf(stderr, "[fakenccl %d] rank %d waits for others in call %ld\n", getpid(), c->rank, c->calls); } }
}
static size_t bytes_of(int type) { static const size_t s[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1}; return s[type]; }
template <class T> static void add(Comm* c, T* out, size_t n) { for (size_t i = 0; i < n; i++) { T sum = 0; for (int r = 0; r < c->size; r++) sum += ((T*)(c->slots + r * SLOT))[i]; out[i] = sum; } }
static void all_reduce(Comm* c, const void* in, void* out, size_t n, int type) {
    size_t b = bytes_of(type); c->calls++;
    for (size_t at = 0; at < n * b || at == 0; at += SLOT) {
        size_t some = std::min(SLOT, n * b - at);
        memcpy(c->slots + c->rank * SLOT, (char*)in + at, some); meet(c);
        char* o = (char*)out + at;
        if (type == 7) add(c, (float*)o, some / 4); else if (type == 8) add(c, (double*)o, some / 8); else if (type == 2 || type == 3) add(c, (int*)o, some / 4);
        else if (type == 4 || type == 5) add(c, (long*)o, some / 8); else if (type <= 1) add(c, (unsigned char*)o, some); else memcpy(o, c->slots, some);
        meet(c);
    }
}
static void all_gather(Comm* c, const void* in, void* out, size_t b) { c->calls++; memcpy(c->slots + c->rank * SLOT, in, std::min(b, SLOT)); meet(c); for (int r = 0; r < c->size; r++) memcpy((char*)out + r * b, c->slots + r * SLOT, std::min(b, SLOT)); meet(c); }
static void broadcast(Comm* c, const void* in, void* out, size_t b, int root) { c->calls++; if (c->rank == root) memcpy(c->slots, in, std::min(b, SLOT)); meet(c); memcpy(out, c->slots, std::min(b, SLOT)); meet(c); }
API int ncclGetVersion(int* v) { *v = 22809; return 0; }
API int ncclGetUniqueId(char* id) { memset(id, 0, 128); snprintf(id, 128, "/fakenccl-%d-%ld", getpid(), random()); return 0; }
API const char* ncclGetErrorString(int) { return "fake NCCL error"; }
API const char* ncclGetLastError(void*) { return ""; }
static int join(Comm** out, int size, const char* id, int rank) {
    int f = shm_open(id, O_CREAT | O_RDWR, 0600);
    size_t all = 4096 + size * SLOT;
    if (f < 0 || ftruncate(f, all)) return 2;
    auto m = (char*)mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, f, 0);
    close(f);
    auto c = new Comm; c->rank = rank; c->size = size; c->dev = device; c->board = (Board*)m; c->slots = m + 4096; c->name = id;
    c->board->joined.fetch_add(1);
    while (c->board->joined.load() < size) usleep(100);
    if (rank == 0) {}
    { std::lock_guard<std::recursive_mutex> g(lock); comms.insert(c); say("NCCL: rank " + std::to_string(rank) + " of " + std::to_string(size) + " on device " + std::to_string(device)); }
    *out = c;
    return 0;
}
struct UniqueId { char internal[128]; };
API int ncclCommInitRank(Comm** c, int n, UniqueId id, int rank) { return join(c, n, id.internal, rank); }
API int ncclCommInitRankConfig(Comm** c, int n, UniqueId id, int rank, void*) { return join(c, n, id.internal, rank); }
API int ncclCommInitRankScalable(Comm** c, int n, int rank, int, UniqueId* id, void*) { return join(c, n, id->internal, rank); }
API int ncclCommGetAsyncError(Comm*, int* e) { *e = 0; return 0; }
API int ncclCommCount(Comm* c, int* n) { *n = c->size; return 0; }
API int ncclCommUserRank(Comm* c, int* n) { *n = c->rank; return 0; }
API int ncclGroupStart() { return 0; }
API int ncclGroupEnd() { return 0; }
API int ncclCommRegister(Comm*, void*, size_t, void** h) { *h = nullptr; return 0; }
API int ncclCommDeregister(Comm*, void*) { return 0; }
static int gone(Comm* c, const char* how) {
    std::lock_guard<std::recursive_mutex> g(lock);
    long alive = 0;
    for (Exec* e : execs) alive += e->graph.nccl > 0;
    say(std::string("NCCL: ") + how + " with " + std::to_string(alive) + " live graphs that hold collectives");
    if (!execs.empty()) { violations++; violation_texts.push_back(std::to_string(execs.size()) + " graphs alive at " + how); write_report(); }
    if (alive) { say(std::string("VIOLATION ") + how + ": would wait for ever for the graphs to be destroyed (commDestroySync)"); if (getenv("FAKE_NCCL_HANG")) { fprintf(stderr, "[fakenccl %d] %s hangs: %ld live graphs\n", getpid(), how, alive); for (;;) sleep(1); } }
    return 0;
}
API int ncclCommFinalize(Comm* c) { return gone(c, "ncclCommFinalize"); }
API int ncclCommDestroy(Comm* c) { gone(c, "ncclCommDestroy"); shm_unlink(c->name.c_str()); return 0; }
API int ncclCommAbort(Comm* c) { c->aborted = true; gone(c, "ncclCommAbort"); shm_unlink(c->name.c_str()); return 0; }
static int collective(Comm* c, cudaStream_t s, const std::string& what, std::function<void()> run) {
    { std::lock_guard<std::recursive_mutex> g(lock); if (of(s)->graph) of(s)->graph->nccl++; if (c->dev != device) say("WRONG DEVICE: " + what + " on device " + std::to_string(device) + ", communicator of " + std::to_string(c->dev)); }
    Stream* st; { std::lock_guard<std::recursive_mutex> g(lock); st = of(s); note(what); touched.insert(st->device); (st->graph ? captured : launches)["collectives"]++; auto& order = orders[c->name]; if (order.empty() || order.back().first != what) order.push_back({what, 0}); order.back().second++;
      if (st->graph && !getenv("FAKE_CUDA_CAPTURED_COLLECTIVES")) { violations++; violation_texts.push_back(what + " captured in a graph"); write_report(); }
      if (st->graph) { st->graph->nodes.push_back({what, run}); return 0; } }
    run();
    return 0;
}
API int ncclAllReduce(const void* in, void* out, size_t n, int type, int, Comm* c, cudaStream_t s) { return collective(c, s, "ncclAllReduce of " + std::to_string(n) + " type " + std::to_string(type), [=] { all_reduce(c, in, out, n, type); }); }
API int ncclAllGather(const void* in, void* out, size_t n, int type, Comm* c, cudaStream_t s) { size_t b = n * bytes_of(type); return collective(c, s, "ncclAllGather of " + std::to_string(n) + " type " + std::to_string(type), [=] { all_gather(c, in, out, b); }); }
API int ncclBroadcast(const void* in, void* out, size_t n, int type, int root, Comm* c, cudaStream_t s) { size_t b = n * bytes_of(type); return collective(c, s, "ncclBroadcast of " + std::to_string(n) + " type " + std::to_string(type), [=] { broadcast(c, in, out, b, root); }); }
API int ncclBcast(void* p, size_t n, int type, int root, Comm* c, cudaStream_t s) { return ncclBroadcast(p, p, n, type, root, c, s); }

// --- the driver, as far as torch and Triton ask for it (a link libcuda.so.1 -> libfakecuda.so makes it so) ---
#define CU0(name) API int name(...) { return 0; }
CU0(cuInit) CU0(cuMemAddressReserve) CU0(cuMemRelease) CU0(cuMemMap) CU0(cuMemAddressFree) CU0(cuMemSetAccess) CU0(cuMemUnmap) CU0(cuMemCreate) CU0(cuMemGetAllocationGranularity)
CU0(cuMemExportToShareableHandle) CU0(cuMemImportFromShareableHandle) CU0(cuMemsetD32Async) CU0(cuStreamWriteValue32) CU0(cuMulticastAddDevice) CU0(cuMulticastBindMem) CU0(cuMulticastUnbind) CU0(cuMulticastCreate)
CU0(cuModuleUnload) CU0(cuFuncSetAttribute) CU0(cuFuncSetCacheConfig) CU0(cuDevicePrimaryCtxRetain) CU0(cuCtxSetCurrent) CU0(cuCtxSetLimit) CU0(cuTensorMapEncodeTiled) CU0(cuTensorMapEncodeIm2col) CU0(cuStreamSynchronize) CU0(cuCtxPushCurrent_v2) CU0(cuCtxPopCurrent_v2) CU0(cuCtxSynchronize)
CU0(cuMemRetainAllocationHandle) CU0(cuDevicePrimaryCtxRelease_v2) CU0(cuGreenCtxCreate) CU0(cuPointerSetAttribute)
API int cuDriverGetVersion(int* v) { *v = 13000; return 0; }
API int cuCtxGetCurrent(void** c) { static int context; *c = &context; return 0; }
API int cuCtxGetDevice(int* d) { *d = device; return 0; }
API int cuDeviceGet(int* d, int n) { *d = n; return 0; }
API int cuDeviceGetCount(int* n) { *n = ndev(); return 0; }
API int cuDeviceGetAttribute(int* v, int a, int d) { return cudaDeviceGetAttribute(v, (cudaDeviceAttr)a, d); }
API int cuDevicePrimaryCtxGetState(int, unsigned* f, int* active) { if (f) *f = 0; *active = 1; return 0; }
API int cuGetErrorString(int, const char** s) { *s = "fake driver error"; return 0; }
API int cuGetErrorName(int, const char** s) { *s = "FAKE"; return 0; }
API int cuPointerGetAttribute(void* out, int a, unsigned long p) { if (a == 2) *(int*)out = is_device((void*)p) ? 2 : 1; else if (a == 3) *(unsigned long*)out = p; else *(unsigned long*)out = 0; return is_device((void*)p) || is_pinned((void*)p) ? 0 : 1; }
struct Module { std::string name; };
API int cuModuleLoadData(void** m, const void*) { note("module loaded"); *m = new Module; if (Stream* s = forbidding()) say("module loaded during a capture"); return 0; }
API int cuModuleLoadDataEx(void** m, const void* i, unsigned, void*, void**) { return cuModuleLoadData(m, i); }
API int cuModuleGetFunction(void** f, void*, const char* name) { *f = new std::string(name); return 0; }
API int cuModuleGetFunctionCount(unsigned* n, void*) { *n = 1; return 0; }
API int cuFuncGetAttribute(int* v, int a, void*) { *v = a == 0 ? 1024 : a == 4 ? 32 : 0; return 0; }
API int cuOccupancyMaxActiveClusters(int* n, void*, void*) { *n = 16; return 0; }
struct LaunchConfig { unsigned gx, gy, gz, bx, by, bz, shared; cudaStream_t stream; void* attrs; unsigned n; };
API int cuLaunchKernelEx(const LaunchConfig* c, void* f, void**, void**) { return work(c->stream, "kernel " + *(std::string*)f); }
API int cuLaunchKernel(void* f, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, cudaStream_t s, void**, void**) { return work(s, "kernel " + *(std::string*)f); }
API int cuGetProcAddress_v2(const char* name, void** f, int v, unsigned long flags, int* status) {
    *f = dlsym(RTLD_DEFAULT, name);
    if (!*f) { char o[200]; snprintf(o, sizeof o, "%s_v2", name); *f = dlsym(RTLD_DEFAULT, o); }
    if (!*f && getenv("FAKE_CUDA_VERBOSE")) fprintf(stderr, "[fakecuda] no driver function %s\n", name);
    if (status) *status = *f ? 0 : 1;
    return *f ? 0 : 500;
}
API int cuGetProcAddress(const char* name, void** f, int v, unsigned long flags) { return cuGetProcAddress_v2(name, f, v, flags, nullptr); }
API int cuCtxGetLimit(size_t* v, int) { *v = 1 << 20; return 0; }
CU0(cuOccupancyMaxActiveBlocksPerMultiprocessor) CU0(cuLaunchCooperativeKernel) CU0(cuCtxCreate_v2) CU0(cuFuncLoad)
API int cuDeviceGetUuid(void* u, int) { memset(u, 7, 16); return 0; }
API int cuDeviceGetName(char* s, int n, int) { snprintf(s, n, "NVIDIA H200 (none)"); return 0; }
API int cuModuleLoad(void** m, const char*) { return cuModuleLoadData(m, nullptr); }
API int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, void*, int, size_t, unsigned) { *n = 4; return 0; }
API int cuLaunchCooperativeKernelEx(...) { return 0; }
API int cuLaunchKernelExHandle(...) { return 0; }
API int cuPointerGetAttributes(unsigned n, int* a, void** out, unsigned long p) { for (unsigned i = 0; i < n; i++) cuPointerGetAttribute(out[i], a[i], p); return 0; }
API int cuLinkCreate_v2(...) { return 1; }
API int cuLinkAddData_v2(...) { return 1; }
API int cuLinkComplete(...) { return 1; }
API int cuLinkDestroy(...) { return 1; }
API int cuModuleGetGlobal_v2(...) { return 1; }
API int cuStreamWaitValue32_v2(...) { return 0; }
