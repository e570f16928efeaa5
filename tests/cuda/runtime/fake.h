// The fake CUDA runtime: what its files share.
//
// A program that is started with this library preloaded finds here the functions of the CUDA runtime, cuBLAS, cuDNN,
// NVRTC, NCCL and the driver that torch and Triton call. Device memory is host memory. Copies, memsets, fills and
// collectives happen; other kernels and products are counted and not run. Captures, streams and devices follow CUDA's
// rules, and what breaks one of them is noted as a violation. Values of kernels, and speed, mean nothing here.
//
//   state.cpp    streams that work in order, memory, devices, captures, violations
//   device.cpp   runtime: devices, errors, launches of kernels
//   memory.cpp   runtime: memory and copies
//   stream.cpp   runtime: streams and events
//   graph.cpp    runtime: captures and graphs
//   cublas.cpp   cudnn.cpp   nvrtc.cpp   nccl.cpp   driver.cpp   the libraries
//   refused.cpp  functions that are not stood in: called, they are a violation
//   report.cpp   the JSON that a process leaves, and what tests/cuda/counters.py asks for
#pragma once

#include <condition_variable>
#include <cuda_runtime_api.h>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#define API extern "C"  // exports.map lets these names out of the library, and no other

namespace fake {

using Run = std::function<void()>;      // does a piece of work
using Attempt = std::function<bool()>;  // the same, where it may have to wait: false until it is done

// A piece of work: what it is called, and what it does if it does anything.
struct Work {
    std::string name;  // "kernel ...", "product ...", "copy pinned to device", "memset", "ncclAllReduce ..."
    Run run = nullptr;
    std::function<Attempt()> begin = nullptr;  // of a collective: an attempt that is new each time the work is done
};

struct Stream;

// What a capture has recorded; an instantiated graph holds a copy.
struct Graph {
    unsigned long long id = 0;
    std::vector<Work> nodes;
    int collectives = 0;
};

// A capture under way: the streams that have joined it share it.
struct Capture {
    Graph graph;
    Stream* origin = nullptr;  // the stream that has begun it and must end it
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    std::thread::id thread;  // that has begun it
    bool broken = false;     // a forbidden call was made: its end fails
};

// How far into each stream of a capture something reaches; by this the end knows streams that were not joined again.
using Reach = std::map<Stream*, long>;

struct Stream {
    int device = 0;
    bool nonblocking = false;  // it does not wait for the legacy stream, nor that for it
    std::shared_ptr<Capture> capture;
    long captured = 0;  // pieces of work in the capture
    Reach reach;        // what its next work comes after
    struct Entry {
        Attempt attempt;
        bool calls_host;  // it calls a function of the program, which may call us
    };
    std::deque<Entry> waiting;  // what could not be done at once, in order
    bool busy = false;          // a host function runs
    long launches = 0;
};

// A point in a stream's work, reached or not.
struct Point {
    bool reached = false;
    double at = 0;      // milliseconds
    long launches = 0;  // before it
};

struct Event {
    std::shared_ptr<Point> point;  // nullptr: never recorded
    std::shared_ptr<Capture> capture;
    Reach reach;
    int device = 0;
};

struct Executable {
    std::shared_ptr<const Graph> graph;
    int device = 0;
};

struct Block {
    size_t size;
    int device;  // that it lies on, or that was current when it was pinned
};

// What was seen of a graph, kept when it is gone.
struct Sighting {
    std::vector<int> nodes;  // numbers of their names
    int collectives = 0;
    long replays = 0;
    bool alive = true;
};

struct Violation {
    std::string what, where;
};

using Counter = std::map<std::string, long>;
using Sequence = std::vector<std::pair<std::string, long>>;  // calls in their order, equal neighbours counted

struct State {
    std::mutex mutex;
    std::condition_variable changed;  // a stream has got on
    pid_t pid = getpid();
    int devices = -1;  // not asked yet
    bool working = false;  // the thread that does what had to wait has been started
    unsigned long long next_id = 1;
    std::map<char*, Block> device_memory, pinned_memory;
    std::set<Stream*> streams;  // without the legacy ones
    Stream legacy[16];          // of each device
    std::map<cudaGraphExec_t, Executable> executables;
    std::map<const void*, std::string> kernels;  // by the address of its host function: mangled name

    // what is reported
    Counter launches, captured, names, copies, allocations, readbacks, readbacks_elsewhere;
    std::map<unsigned long long, Sighting> graphs;
    std::map<std::string, int> numbers_of_nodes;  // by name; there are few names and many nodes
    std::vector<std::string> names_of_nodes;
    std::map<std::string, Sequence> communicators;
    std::vector<Violation> violations;
    std::set<int> contexts, touched;  // devices that are set up, and those that hold memory or do work
    bool in_step = false;  // waits and pageable copies are violations
    const char* ended = nullptr;
};

State& state();

// The lock that each call of the program holds. At its end violations of the call get the line of the program that
// made it.
class Call {
  public:
    Call();
    ~Call();
    Call(const Call&) = delete;
    // Wait until something holds, which streams bring about meanwhile.
    void wait(const std::function<bool()>& holds);

  private:
    std::unique_lock<std::mutex> lock_;
};

// Everything below is called with the lock held, unless it says otherwise.

extern thread_local int current_device;
int device_count();
Stream& stream_of(cudaStream_t handle);

void violate(const std::string& what);
cudaError_t fail(cudaError_t error, const std::string& why);  // a violation that the call answers with an error
cudaError_t remember(cudaError_t error);                      // for cudaGetLastError
cudaError_t take_last_error(bool forget);

// Refuse a call that is not allowed while this thread, or in the global mode any thread, captures.
cudaError_t allowed_now(const std::string& call);
cudaError_t break_capture(Stream& stream, cudaError_t error, const std::string& why);

// Note that this process sets a device up, and that it uses one: a rank may use its own alone.
void make_context(int device, const std::string& what);
void touch(int device, const std::string& what);
void check_pointer(const void* pointer, int device, const std::string& what);

const Block* block_at(const std::map<char*, Block>& memory, const void* pointer);
std::string place_of(const void* pointer);  // device, pinned or pageable

// Put work on a stream, or into the capture that the stream is in.
cudaError_t enqueue(cudaStream_t handle, Work work);
// Put on a stream what is no work of its own: records of events, waits for them.
void in_turn(Stream& stream, Attempt attempt, bool calls_host = false);
bool idle(const Stream& stream);

// Note that the program waits for a device.
void note_wait(const std::string& call);
bool in_step_thread();

double now();  // milliseconds
std::string kind_of(const std::string& name);
std::string demangled(const std::string& name);
void count_launch(Stream& stream, const std::string& name);
void write_report();
std::string python_line();  // without the lock

}  // namespace fake
