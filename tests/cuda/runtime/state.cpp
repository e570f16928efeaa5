// Streams that work in order, memory, devices, violations: the rules that all libraries share.
#include "fake.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

namespace fake {

thread_local int current_device = 0;
static thread_local cudaError_t last_error = cudaSuccess;
static thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
static State* the_state = nullptr;

static State* fresh() {
    auto made = new State;  // never deleted: threads of the program may call us until the very end
    for (int device = 0; device < 16; device++) made->legacy[device].device = device;
    return made;
}

// A forked child has nothing of its parent's but the kernels, which were registered as libraries were loaded: CUDA
// cannot be used in a child whose parent has used it.
static void start_anew() {
    State* parents = the_state;
    the_state = fresh();
    the_state->kernels = parents->kernels;
}

State& state() {
    static bool once = [] {
        the_state = fresh();
        pthread_atfork(nullptr, nullptr, start_anew);
        return true;
    }();
    (void)once;
    return *the_state;
}

// As CUDA does: of the devices that CUDA_VISIBLE_DEVICES names, those before the first that is not there.
static int visible_of(int there) {
    const char* named = getenv("CUDA_VISIBLE_DEVICES");
    if (!named) return there;
    int count = 0;
    for (char* rest; isdigit(*named) && strtol(named, &rest, 10) < there; named = rest + 1) {
        count++;
        if (*rest != ',') break;
    }
    return count;
}

int device_count() {
    if (state().devices < 0) state().devices = visible_of(getenv("FAKE_CUDA_DEVICES") ? atoi(getenv("FAKE_CUDA_DEVICES")) : 1);
    return state().devices;
}

double now() {
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// --- the lock of a call ---

static thread_local std::vector<size_t> of_this_call;  // violations

Call::Call() : lock_(state().mutex) { of_this_call.clear(); }

Call::~Call() {
    if (of_this_call.empty()) return;
    lock_.unlock();  // Python's lock is taken next, whose holder may wait for ours
    std::string where = python_line();
    lock_.lock();
    for (size_t violation : of_this_call) state().violations[violation].where = where;
    if (state().violations.size() < 100) write_report();  // this process may be killed
}

// --- streams ---

// Do what a stream has waiting as far as it goes; returns whether it got on.
static bool get_on(Stream& stream, std::mutex& mutex) {
    bool moved = false;
    while (!stream.waiting.empty() && !stream.busy) {
        auto& entry = stream.waiting.front();
        if (entry.calls_host) {
            stream.busy = true;
            auto attempt = entry.attempt;
            mutex.unlock();
            attempt();
            mutex.lock();
            stream.busy = false;
        } else if (!entry.attempt()) {
            break;
        }
        stream.waiting.pop_front();
        moved = true;
    }
    return moved;
}

// Let all streams get on; returns whether one did. Streams are looked up anew each time: a host function may make some.
static bool get_all_on() {
    bool moved = false;
    std::vector<Stream*> all(state().streams.begin(), state().streams.end());
    for (Stream& stream : state().legacy) all.push_back(&stream);
    for (Stream* stream : all) moved |= get_on(*stream, state().mutex);
    return moved;
}

static bool all_idle() {
    for (const Stream& stream : state().legacy)
        if (!idle(stream)) return false;
    for (const Stream* stream : state().streams)
        if (!idle(*stream)) return false;
    return true;
}

// The device's side: a thread that does what could not be done as it was enqueued, because a collective waits for other
// ranks. It exists from the first such wait on. Where the process that has started this one is gone, it ends this one:
// real NCCL would wait for a dead rank for ever, and so would a forgotten test.
static void work() {
    pid_t parent = getppid();
    long pause = 20;  // microseconds
    std::unique_lock<std::mutex> lock(state().mutex);
    for (;;) {
        if (get_all_on()) {
            pause = 20;
            state().changed.notify_all();
        } else if (all_idle()) {
            state().changed.wait(lock);
            continue;
        }
        lock.unlock();
        std::this_thread::sleep_for(std::chrono::microseconds(pause));
        pause = std::min(2 * pause, 1000L);
        lock.lock();
        if (getppid() != parent) {
            state().ended = "its parent ended, and it waited";
            write_report();
            syscall(SYS_exit_group, 98);
        }
    }
}

bool idle(const Stream& stream) { return stream.waiting.empty() && !stream.busy; }

void in_turn(Stream& stream, Attempt attempt, bool calls_host) {
    if (idle(stream) && !calls_host && attempt()) return;
    stream.waiting.push_back({std::move(attempt), calls_host});
    if (!state().working) {
        state().working = true;
        std::thread(work).detach();
    }
    state().changed.notify_all();
}

void Call::wait(const std::function<bool()>& holds) { state().changed.wait(lock_, holds); }

Stream& stream_of(cudaStream_t handle) {
    // null, cudaStreamLegacy and cudaStreamPerThread
    bool legacy = handle == nullptr || handle == (cudaStream_t)1 || handle == (cudaStream_t)2;
    if (legacy) return state().legacy[current_device];
    return *reinterpret_cast<Stream*>(handle);
}

std::string kind_of(const std::string& name) {
    static const std::pair<const char*, const char*> kinds[] = {
        {"kernel", "kernels"}, {"product", "products"},  {"copy", "copies"},
        {"memset", "memsets"}, {"nccl", "collectives"}, {"graph", "graphs"}};
    for (auto& [beginning, kind] : kinds)
        if (name.compare(0, strlen(beginning), beginning) == 0) return kind;
    return "host functions";
}

void count_launch(Stream& stream, const std::string& name) {
    stream.launches++;
    state().names[name]++;
    (stream.capture ? state().captured : state().launches)[kind_of(name)]++;
}

static Attempt attempt_of(const Work& work) {
    if (work.begin) return work.begin();
    return [run = work.run] {
        if (run) run();
        return true;
    };
}

cudaError_t enqueue(cudaStream_t handle, Work work) {
    Stream& stream = stream_of(handle);
    touch(stream.device, work.name);
    if (stream.device != current_device)  // CUDA: a kernel is launched into streams of the current device's context
        violate("wrong device: " + work.name + " on a stream of device " + std::to_string(stream.device) +
                " while device " + std::to_string(current_device) + " is current");
    count_launch(stream, work.name);
    if (stream.capture) {
        if (work.begin) {
            stream.capture->graph.collectives++;
            if (!getenv("FAKE_CUDA_CAPTURED_COLLECTIVES"))  // the project's law: NCCL in graphs deadlocks between nodes
                violate(work.name + " captured in a graph");
        }
        stream.reach[&stream] = ++stream.captured;
        stream.capture->graph.nodes.push_back(std::move(work));
        return cudaSuccess;
    }
    // CUDA: the legacy stream waits for all blocking streams, which a capturing one cannot be waited for
    if (&stream == &state().legacy[stream.device])
        for (Stream* other : state().streams)
            if (other->capture && other->device == stream.device && !other->nonblocking)
                return break_capture(*other, cudaErrorStreamCaptureImplicit, work.name + " on the legacy stream");
    if (!work.run && !work.begin && idle(stream)) return cudaSuccess;
    in_turn(stream, attempt_of(work));
    return cudaSuccess;
}

// --- captures ---

cudaError_t break_capture(Stream& stream, cudaError_t error, const std::string& why) {
    stream.capture->broken = true;
    return fail(error, why + " during a capture");
}

// CUDA: "potentially unsafe" calls are refused to the thread that captures, and while a capture in global mode goes on
// to all threads that have not been set to another mode; cudaStreamCaptureModeRelaxed refuses nothing.
static Capture* forbidding() {
    if (thread_mode == cudaStreamCaptureModeRelaxed) return nullptr;
    for (Stream* stream : state().streams) {
        Capture* capture = stream->capture.get();
        if (capture == nullptr || capture->mode == cudaStreamCaptureModeRelaxed) continue;
        if (capture->thread == std::this_thread::get_id()) return capture;
        if (capture->mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal) return capture;
    }
    return nullptr;
}

cudaError_t allowed_now(const std::string& call) {
    Capture* capture = forbidding();
    if (capture == nullptr) return cudaSuccess;
    return break_capture(*capture->origin, cudaErrorStreamCaptureUnsupported, call);
}

// --- errors and violations ---

cudaError_t remember(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

cudaError_t take_last_error(bool forget) {
    cudaError_t error = last_error;
    if (forget) last_error = cudaSuccess;
    return error;
}

void violate(const std::string& what) {
    of_this_call.push_back(state().violations.size());
    state().violations.push_back({what, ""});
    if (getenv("FAKE_CUDA_VERBOSE")) fprintf(stderr, "[fakecuda %d] violation: %s\n", getpid(), what.c_str());
}

cudaError_t fail(cudaError_t error, const std::string& why) {
    violate(why);
    return remember(error);
}

int refuse(const char* function, int status) {  // for refused.cpp
    Call call;
    violate(std::string("not stood in: ") + function);
    return status;
}

// --- devices and memory ---

// The device that a launcher has given to this process, or -1.
static int own_device() {
    const char* rank = getenv("LOCAL_RANK");
    return rank && device_count() > 1 ? atoi(rank) : -1;
}

void make_context(int device, const std::string& what) {
    if (!state().contexts.insert(device).second) return;
    int own = own_device();
    if (own >= 0 && device != own)  // a context takes half a gigabyte of a device that another rank fills
        violate("not its own device: " + what + " on device " + std::to_string(device) + " by local rank " +
                std::to_string(own));
}

void touch(int device, const std::string& what) {
    make_context(device, what);
    if (state().touched.insert(device).second) write_report();
}

const Block* block_at(const std::map<char*, Block>& memory, const void* pointer) {
    auto address = (char*)pointer;
    auto after = memory.upper_bound(address);
    if (after == memory.begin()) return nullptr;
    auto& [start, block] = *std::prev(after);
    return address < start + block.size ? &block : nullptr;
}

std::string place_of(const void* pointer) {
    if (block_at(state().device_memory, pointer)) return "device";
    return block_at(state().pinned_memory, pointer) ? "pinned" : "pageable";
}

void check_pointer(const void* pointer, int device, const std::string& what) {
    const Block* block = block_at(state().device_memory, pointer);
    if (block && block->device != device)  // CUDA: without peer access another device's memory is an illegal address
        violate("wrong device: " + what + " on device " + std::to_string(device) + " with memory of device " +
                std::to_string(block->device));
}

// --- waits ---

// The threads that make a step: the main one, and autograd's. Others write checkpoints or watch over NCCL.
bool in_step_thread() {
    char name[17] = {0};
    prctl(PR_GET_NAME, name);
    return gettid() == getpid() || strncmp(name, "pt_autograd", 11) == 0;
}

void note_wait(const std::string& call) {
    touch(current_device, call);
    bool of_step = in_step_thread();
    (of_step ? state().readbacks : state().readbacks_elsewhere)[call]++;
    if (of_step && state().in_step) violate("a wait in a step: " + call);
}

std::string demangled(const std::string& name) {
    int status = 0;
    char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
    std::string answer = status == 0 ? text : name;
    free(text);
    return answer.size() > 300 ? answer.substr(0, 300) : answer;
}

}  // namespace fake

using namespace fake;

API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    std::swap(*mode, thread_mode);
    return cudaSuccess;
}
