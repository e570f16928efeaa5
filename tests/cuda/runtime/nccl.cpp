// NCCL: the processes of one machine exchange data through shared memory.
//
// A communicator is a board with a seat for each rank. A collective is made in rounds of at most ROOM bytes: a rank
// writes its part and what it calls at its seat, looks whether all others have come and call the same, and takes its
// result. As with NCCL a call only enqueues; the stream waits where a rank is missing, and the program where it waits
// for the stream. That a rank never comes is not noticed here, as NCCL would not: the job's own watchdog is what is
// tested. But ranks that call different things, for which NCCL waits for ever or mixes numbers, end here, and say what
// they called.
#include "fake.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#define __CUDA_FP16_H__  // nccl.h includes these headers, which need libcu++, and takes nothing from them
#define __CUDA_BF16_H__
#define __CUDA_FP8_H__
#include <nccl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

using namespace fake;

static const size_t ROOM = 64ull << 20;  // bytes of a rank's part of a round; pages that nobody writes take no memory
static const int MOST_RANKS = 64;
static const double SECONDS_TO_TRACE = 10;
static const int CALLS_DIFFER = 97;  // exit code

struct Seat {
    std::atomic<unsigned long> posted, finished;  // rounds
    char call[160], where[160];                   // of the round that is posted
};

struct Board {
    std::atomic<int> joined;
    Seat seats[MOST_RANKS];
};

struct ncclComm {
    int rank, size, device;
    std::string name;
    Board* board;
    char* rooms;
    unsigned long rounds = 0;  // this rank has posted
    long calls = 0, pending = 0;
    bool aborted = false;

    char* room(int rank) const { return rooms + rank * ROOM; }
    Seat& seat(int rank) const { return board->seats[rank]; }
};

static size_t size_of(ncclDataType_t type) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return sizes[type];
}

static std::string name_of(ncclDataType_t type) {
    static const char* names[] = {"int8", "uint8", "int32", "uint32", "int64", "uint64",
                                  "float16", "float32", "float64", "bfloat16", "float8", "float8"};
    return names[type];
}

static std::string name_of(ncclRedOp_t operation) {
    static const char* names[] = {"sum", "product", "maximum", "minimum", "average"};
    return operation < 5 ? names[operation] : "an operation of its own";
}

// --- the beginning and the end of a communicator ---

API ncclResult_t ncclGetVersion(int* version) { return *version = NCCL_VERSION_CODE, ncclSuccess; }
API const char* ncclGetErrorString(ncclResult_t) { return "an error of fakecuda's NCCL"; }
API const char* ncclGetLastError(ncclComm_t) { return ""; }
API ncclResult_t ncclGroupStart() { return ncclSuccess; }
API ncclResult_t ncclGroupEnd() { return ncclSuccess; }

API ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    static std::atomic<int> count{0};
    memset(id->internal, 0, sizeof id->internal);
    snprintf(id->internal, sizeof id->internal, "/fakenccl-%d-%ld-%d", getpid(), (long)now(), count++);
    return ncclSuccess;
}

static ncclResult_t join(ncclComm_t* made, int size, const char* name, int rank) {
    int file = shm_open(name, O_CREAT | O_RDWR, 0600);
    size_t bytes = sizeof(Board) + size * ROOM;
    if (size > MOST_RANKS || file < 0 || ftruncate(file, bytes)) return ncclSystemError;
    auto memory = (char*)mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    close(file);
    auto board = (Board*)memory;
    board->joined++;
    for (pid_t parent = getppid(); board->joined < size; usleep(200))
        if (getppid() != parent) return ncclSystemError;
    shm_unlink(name);  // all have it: nothing is left, however they end
    Call call;
    touch(current_device, "a communicator");
    *made = new ncclComm{rank, size, current_device, name, board, memory + sizeof(Board)};
    state().communicators[name];
    return ncclSuccess;
}

API ncclResult_t ncclCommInitRank(ncclComm_t* made, int size, ncclUniqueId id, int rank) {
    return join(made, size, id.internal, rank);
}
API ncclResult_t ncclCommInitRankConfig(ncclComm_t* made, int size, ncclUniqueId id, int rank, ncclConfig_t*) {
    return join(made, size, id.internal, rank);
}
API ncclResult_t ncclCommInitRankScalable(
    ncclComm_t* made, int size, int rank, int, ncclUniqueId* ids, ncclConfig_t*) {
    return join(made, size, ids->internal, rank);
}

API ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* error) { return *error = ncclSuccess, ncclSuccess; }
API ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) { return *count = comm->size, ncclSuccess; }
API ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) { return *rank = comm->rank, ncclSuccess; }
API ncclResult_t ncclCommRegister(const ncclComm_t, void*, size_t, void** handle) {
    return *handle = nullptr, ncclSuccess;
}
API ncclResult_t ncclCommDeregister(const ncclComm_t, void*) { return ncclSuccess; }

// NCCL: a communicator waits, at its end, for every graph that holds one of its collectives. The project's law is
// wider: no graph outlives its process group.
static void leave(const std::string& function) {
    if (state().executables.empty()) return;
    int holding = 0;
    for (auto& [handle, executable] : state().executables) holding += executable.graph->collectives > 0;
    violate(function + " with " + std::to_string(state().executables.size()) + " live graphs, " +
            std::to_string(holding) + " with collectives");
}

// NCCL: it waits for the collectives that are under way.
API ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    Call call;
    leave("ncclCommFinalize");
    call.wait([comm] { return comm->pending == 0 || comm->aborted; });
    return ncclSuccess;
}

API ncclResult_t ncclCommDestroy(ncclComm_t) {  // its memory stays: the thread that makes collectives may look at it
    Call call;
    leave("ncclCommDestroy");
    return ncclSuccess;
}

// NCCL: collectives under way end, without a result.
API ncclResult_t ncclCommAbort(ncclComm_t comm) {
    Call call;
    leave("ncclCommAbort");
    comm->aborted = true;
    state().changed.notify_all();
    return ncclSuccess;
}

// --- collectives ---

// What a rank gives and takes: `take(at, bytes)` reads the rooms and writes the result of bytes `at` and following.
struct Collective {
    std::string name, where;
    const void* from;
    size_t bytes;
    std::function<void(size_t, size_t)> take;
};

// Ranks call different things: NCCL would wait for ever, or mix numbers. Say what each called, and end.
[[noreturn]] static void differ(const ncclComm& comm, int other, const Collective& mine) {
    auto says = [](int rank, const std::string& call, const std::string& where) {
        return "rank " + std::to_string(rank) + " calls " + call + (where.empty() ? "" : " at " + where);
    };
    const Seat& seat = comm.seat(other);
    std::string text = "collectives differ: " + says(comm.rank, mine.name, mine.where) + ", " +
                       says(other, seat.call, seat.where) + ", as round " + std::to_string(comm.rounds);
    violate(text);
    fprintf(stderr, "[fakecuda] %s\n", text.c_str());
    state().ended = "collectives differ";
    write_report();
    syscall(SYS_exit_group, CALLS_DIFFER);
    abort();
}

// A collective under way.
class Course {
  public:
    Course(ncclComm* comm, const Collective& what) : comm_(comm), what_(what) {}

    // Go on as far as the other ranks have come; returns whether it is done.
    bool attempt() {
        do {
            if (comm_->aborted) break;
            if (!posted_ && !post()) return false;
            if (!all_here()) return false;
            size_t some = std::min(ROOM, what_.bytes - at_);
            what_.take(at_, some);
            comm_->seat(comm_->rank).finished = comm_->rounds;
            posted_ = false;
            at_ += some;
        } while (at_ < what_.bytes);
        return true;
    }

  private:
    // Write this rank's part, if all have read the last round's.
    bool post() {
        for (int rank = 0; rank < comm_->size; rank++)
            if (comm_->seat(rank).finished < comm_->rounds) return false;
        Seat& seat = comm_->seat(comm_->rank);
        if (what_.from)
            memcpy(comm_->room(comm_->rank), (const char*)what_.from + at_, std::min(ROOM, what_.bytes - at_));
        snprintf(seat.call, sizeof seat.call, "%s", what_.name.c_str());
        snprintf(seat.where, sizeof seat.where, "%s", what_.where.c_str());
        seat.posted = ++comm_->rounds;
        return posted_ = true;
    }

    // Compare with the ranks that have come.
    bool all_here() {
        std::string missing;
        for (int rank = 0; rank < comm_->size; rank++) {
            const Seat& seat = comm_->seat(rank);
            if (seat.posted < comm_->rounds) missing += " " + std::to_string(rank);
            else if (what_.name.compare(0, sizeof seat.call - 1, seat.call) != 0) differ(*comm_, rank, what_);
        }
        if (!missing.empty() && !traced_ && now() > since_ + 1000 * SECONDS_TO_TRACE) {
            fprintf(stderr, "[fakecuda] rank %d waits in %s for rank%s\n", comm_->rank, what_.name.c_str(),
                    missing.c_str());
            traced_ = true;
        }
        return missing.empty();
    }

    ncclComm* comm_;
    Collective what_;
    size_t at_ = 0;
    bool posted_ = false, traced_ = false;
    double since_ = now();
};

static void note_order(const ncclComm& comm, const std::string& name) {
    Sequence& order = state().communicators[comm.name];
    if (order.empty() || order.back().first != name) order.push_back({name, 0});
    order.back().second++;
}

static ncclResult_t collective(ncclComm* comm, cudaStream_t stream, Collective what, const void* to) {
    what.where = python_line();
    Call call;
    int device = stream_of(stream).device;
    if (comm->device != device)
        violate("wrong device: " + what.name + " on device " + std::to_string(device) +
                " by a communicator of device " + std::to_string(comm->device));
    check_pointer(what.from, device, what.name);
    check_pointer(to, device, what.name);
    note_order(*comm, what.name);
    Work work{what.name};
    work.begin = [comm, what]() -> Attempt {
        comm->pending++;
        return [comm, course = std::make_shared<Course>(comm, what)] {
            if (!course->attempt()) return false;
            comm->pending--;
            return true;
        };
    };
    return enqueue(stream, work) ? ncclUnhandledCudaError : ncclSuccess;
}

// --- reductions ---

template <class T>
static T combined(T a, T b, ncclRedOp_t operation) {
    switch (operation) {
        case ncclProd: return a * b;
        case ncclMax: return std::max(a, b);
        case ncclMin: return std::min(a, b);
        default: return a + b;
    }
}

template <class T>
static void reduce(const ncclComm& comm, void* to, size_t count, ncclRedOp_t operation) {
    for (size_t i = 0; i < count; i++) {
        T all = ((T*)comm.room(0))[i];
        for (int rank = 1; rank < comm.size; rank++) all = combined(all, ((T*)comm.room(rank))[i], operation);
        ((T*)to)[i] = operation == ncclAvg ? all / (T)comm.size : all;
    }
}

static void reduce(const ncclComm& comm, void* to, size_t bytes, ncclDataType_t type, ncclRedOp_t operation) {
    size_t count = bytes / size_of(type);
    switch (type) {
        case ncclInt8: return reduce<signed char>(comm, to, count, operation);
        case ncclUint8: return reduce<unsigned char>(comm, to, count, operation);
        case ncclInt32: return reduce<int>(comm, to, count, operation);
        case ncclUint32: return reduce<unsigned>(comm, to, count, operation);
        case ncclInt64: return reduce<long>(comm, to, count, operation);
        case ncclUint64: return reduce<unsigned long>(comm, to, count, operation);
        case ncclFloat32: return reduce<float>(comm, to, count, operation);
        case ncclFloat64: return reduce<double>(comm, to, count, operation);
        default: violate("not stood in: a reduction of " + name_of(type));
    }
}

static std::string named(const char* function, size_t count, ncclDataType_t type, const std::string& more) {
    return std::string(function) + " of " + std::to_string(count) + " " + name_of(type) + more;
}

API ncclResult_t ncclAllReduce(
    const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t operation, ncclComm_t comm,
    cudaStream_t stream) {
    auto take = [=](size_t at, size_t bytes) { reduce(*comm, (char*)to + at, bytes, type, operation); };
    std::string name = named("ncclAllReduce", count, type, ", " + name_of(operation));
    return collective(comm, stream, {name, "", from, count * size_of(type), take}, to);
}

API ncclResult_t ncclReduce(
    const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t operation, int root, ncclComm_t comm,
    cudaStream_t stream) {
    auto take = [=](size_t at, size_t bytes) {
        if (comm->rank == root) reduce(*comm, (char*)to + at, bytes, type, operation);
    };
    std::string more = ", " + name_of(operation) + ", to rank " + std::to_string(root);
    std::string name = named("ncclReduce", count, type, more);
    return collective(comm, stream, {name, "", from, count * size_of(type), take}, to);
}

API ncclResult_t ncclAllGather(
    const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
    size_t all = count * size_of(type);
    auto take = [=](size_t at, size_t bytes) {
        for (int rank = 0; rank < comm->size; rank++) memcpy((char*)to + rank * all + at, comm->room(rank), bytes);
    };
    return collective(comm, stream, {named("ncclAllGather", count, type, ""), "", from, all, take}, to);
}

API ncclResult_t ncclBroadcast(
    const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream) {
    auto take = [=](size_t at, size_t bytes) { memcpy((char*)to + at, comm->room(root), bytes); };
    std::string name = named("ncclBroadcast", count, type, ", from rank " + std::to_string(root));
    const void* mine = comm->rank == root ? from : nullptr;
    return collective(comm, stream, {name, "", mine, count * size_of(type), take}, to);
}

API ncclResult_t ncclBcast(
    void* data, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream) {
    return ncclBroadcast(data, data, count, type, root, comm, stream);
}
