// A CUDA block on one CPU thread: every CUDA thread is a fiber that runs until it has to wait for others.
//
// Fibers change only at barriers and warp-wide operations. Between two of them a thread runs alone, so a missing
// barrier shows as a wrong result, and does so reliably when the same test runs in several lane orders.
#pragma once

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK_BYTES = 256 * 1024;

// In which order the runnable threads of a block get their turn.
enum class Order : int { Forward, Reverse, Shuffled };

enum class State : uint8_t { Runnable, AtWarpOp, AtBarrier, Done };

#if defined(__x86_64__)
using Context = void*;
extern "C" void emulator_switch(Context* from, Context to);
// Callee-saved registers on the old stack, then the new stack and its registers.
__asm__(R"(
.text
.weak emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
inline void switch_context(Context& from, Context& to) { emulator_switch(&from, to); }
inline void prepare(Context& context, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + STACK_BYTES - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  context = top;
}
#else
using Context = ucontext_t;
inline void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
inline void prepare(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = STACK_BYTES;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

// Lanes of a warp that meet in one operation; the last one computes it for all.
struct Meeting {
  using Finish = void (*)(void* const (&slots)[WARP], uint32_t mask);
  uint32_t mask = 0, arrived = 0;
  Finish finish = nullptr;
  void* slots[WARP] = {};
};

struct Thread {
  Context context;
  State state;
  dim3 index;
};

struct Block {
  Thread threads[MAX_THREADS];
  Meeting warps[MAX_THREADS / WARP];
  unsigned order[MAX_THREADS], place[MAX_THREADS];
  unsigned count = 0, current = 0, alive = 0, at_barrier = 0;
  dim3 index, dim, grid;
  unsigned char* shared = nullptr;
  const char* kernel = "";
  void (*call)(const void* params) = nullptr;
  const void* params = nullptr;
  Context launcher;
  char* stacks = nullptr;
  const void* launcher_stack = nullptr;
  size_t launcher_stack_bytes = 0;
};

// The block that this CPU thread runs.
inline thread_local Block* block = nullptr;

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "emulator: %s: block (%u,%u,%u), thread %u, %u of %u alive, %u at a barrier: %s\n", block->kernel,
          block->index.x, block->index.y, block->index.z, block->current, block->alive, block->count,
          block->at_barrier, what);
  abort();
}

constexpr unsigned LAUNCHER = ~0u;

inline void jump(Context& from, unsigned target) {
  Context& to = target == LAUNCHER ? block->launcher : block->threads[target].context;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  if (target == LAUNCHER) {
    __sanitizer_start_switch_fiber(&fake_stack, block->launcher_stack, block->launcher_stack_bytes);
  } else {
    __sanitizer_start_switch_fiber(&fake_stack, block->stacks + target * STACK_BYTES, STACK_BYTES);
  }
  switch_context(from, to);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
  switch_context(from, to);
#endif
}

// Lets the next runnable thread go on; returns when it is this one's turn again.
__attribute__((noinline)) inline void yield() {
  Block* b = block;
  unsigned me = b->current;
  for (unsigned step = 1; step <= b->count; step++) {
    unsigned at = b->place[me] + step;
    unsigned next = b->order[at >= b->count ? at - b->count : at];
    if (b->threads[next].state != State::Runnable) continue;
    if (next == me) return;
    b->current = next;
    jump(b->threads[me].context, next);
    return;
  }
  if (b->alive > 0) fail("deadlock: some threads wait at a barrier or warp operation that others never reach");
  jump(b->threads[me].context, LAUNCHER);
}

inline void wait_as(State state) {
  Thread& me = block->threads[block->current];
  me.state = state;
  while (me.state != State::Runnable) yield();
}

inline void open_barrier() {
  for (unsigned i = 0; i < block->count; i++) {
    if (block->threads[i].state == State::AtBarrier) block->threads[i].state = State::Runnable;
  }
  block->at_barrier = 0;
}

inline void barrier() {
  if (++block->at_barrier == block->alive) {
    open_barrier();
  } else {
    wait_as(State::AtBarrier);
  }
}

// All lanes of `mask` bring a slot; the last one to arrive runs `finish` over them.
inline void meet(uint32_t mask, void* slot, Meeting::Finish finish) {
  Block* b = block;
  unsigned lane = b->current % WARP, first = b->current - lane;
  Meeting& meeting = b->warps[b->current / WARP];
  if (!(mask >> lane & 1)) fail("a lane takes part in a warp operation whose mask leaves it out");
  for (unsigned i = 0; i < WARP; i++) {
    bool missing = first + i >= b->count || b->threads[first + i].state == State::Done;
    if ((mask >> i & 1) && missing) fail("the mask of a warp operation names a lane that has exited");
  }
  // A group with other lanes may be under way in this warp.
  while (meeting.arrived != 0 && (meeting.mask != mask || meeting.finish != finish)) {
    if (meeting.mask & mask) fail("lanes of a warp meet in different operations");
    yield();
  }
  meeting.mask = mask;
  meeting.finish = finish;
  meeting.slots[lane] = slot;
  meeting.arrived |= 1u << lane;
  if (meeting.arrived != mask) return wait_as(State::AtWarpOp);
  finish(meeting.slots, mask);
  meeting.arrived = 0;
  for (unsigned i = 0; i < WARP; i++) {
    if (mask >> i & 1) b->threads[first + i].state = State::Runnable;
  }
}

// The first frame of a fiber; it never returns.
__attribute__((no_sanitize("address"))) inline void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  block->call(block->params);
  block->threads[block->current].state = State::Done;
  block->alive--;
  if (block->alive > 0 && block->at_barrier == block->alive) open_barrier();
  yield();
  abort();
}

inline void order_threads(Block& b, Order order, uint32_t seed) {
  for (unsigned i = 0; i < b.count; i++) b.order[i] = order == Order::Reverse ? b.count - 1 - i : i;
  if (order == Order::Shuffled) std::shuffle(b.order, b.order + b.count, std::mt19937(seed));
  for (unsigned i = 0; i < b.count; i++) b.place[b.order[i]] = i;
}

inline void run_block(Block& b, Order order, uint32_t seed) {
  b.count = b.alive = b.dim.x * b.dim.y * b.dim.z;
  b.at_barrier = 0;
  order_threads(b, order, seed);
  for (Meeting& meeting : b.warps) meeting.arrived = 0;
  for (unsigned i = 0; i < b.count; i++) {
    b.threads[i].state = State::Runnable;
    b.threads[i].index = dim3(i % b.dim.x, i / b.dim.x % b.dim.y, i / b.dim.x / b.dim.y);
    char* stack = b.stacks + i * STACK_BYTES;
#if defined(__SANITIZE_ADDRESS__)
    // The last fiber here ended in frames that never returned, whose borders are still marked.
    __asan_unpoison_memory_region(stack + STACK_BYTES - 8192, 8192);
#endif
    prepare(b.threads[i].context, stack, enter);
  }
  b.current = b.order[0];
  jump(b.launcher, b.current);
}

inline Block* new_block() {
  Block* b = new Block;
  void* stacks = mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stacks == MAP_FAILED) abort();
  b->stacks = static_cast<char*>(stacks);
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  void* low;
  pthread_attr_getstack(&attributes, &low, &b->launcher_stack_bytes);
  b->launcher_stack = low;
  pthread_attr_destroy(&attributes);
#endif
  return b;
}

// Runs all blocks of a launch, one after another. Shared memory has exactly the size asked for, so that a sanitizer
// sees an access beyond it, and starts as NaN.
inline void launch(const char* kernel, void (*call)(const void*), const void* params, dim3 grid, dim3 dim,
                   size_t shared_bytes, Order order) {
  if (!block) block = new_block();
  Block& b = *block;
  b.kernel = kernel;
  b.call = call;
  b.params = params;
  b.grid = grid;
  b.dim = dim;
  void* shared = nullptr;
  if (posix_memalign(&shared, 16, shared_bytes) != 0) abort();
  b.shared = static_cast<unsigned char*>(shared);
  uint32_t total = grid.x * grid.y * grid.z;
  for (uint32_t i = 0; i < total; i++) {
    // Blocks come in the chosen order too.
    uint32_t at = order == Order::Reverse ? total - 1 - i : i;
    b.index = dim3(at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y);
    memset(b.shared, 0xff, shared_bytes);
    run_block(b, order, at);
  }
  free(b.shared);
  b.shared = nullptr;
}

}  // namespace emulator
