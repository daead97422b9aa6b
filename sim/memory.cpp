// Off-chip memory of fixed latency and bandwidth, and the records of the monitor.
//
// One cycle is one call of hwgate_step, at the clock edge that ends it; what it answers is on the
// bus in the next cycle. Python reaches the storage without copying, through ctypes.
//
// Read address, write address and write data are always accepted. Reads are answered in order: a
// beat is offered no earlier than `read_latency` cycles after its address, and `beat_interval`
// cycles after the beat before it was taken. A write burst is answered `write_latency` cycles
// after its last beat. An access outside the memory, or in a failing range, answers SLVERR.
//
// On a shared bus (`write_part` is not 0) beats of reads and of writes move in one order, each
// `beat_interval` cycles after the one before it at the earliest: see `MemoryTiming`. Write data
// waits while `write_buffer` beats have been taken and have not moved.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "svdpi.h"

namespace {

constexpr uint8_t OKAY = 0, SLVERR = 2;
constexpr uint32_t INCR = 1, PAGE = 4096;

struct Burst {
    uint64_t address, ready;
    uint32_t beats, taken;
    bool id, error;
};

struct Event {
    uint16_t layer, lane, channel, tile, pixel;
    uint8_t decision, score;
    int32_t psum;
};
static_assert(sizeof(Event) == 16, "hwgate.sim.records.EVENT has the same layout");

struct ChipWrite {
    uint32_t layer, address;
    uint8_t data[16];
};
static_assert(sizeof(ChipWrite) == 24, "hwgate.sim.records.CHIP_WRITE has the same layout");

struct Range {
    uint64_t from = 0, to = 0;
    bool hit(uint64_t address, uint64_t size) const {
        return address < to && address + size > from;
    }
};

std::vector<uint8_t> memory;
std::vector<Event> events;
std::vector<ChipWrite> chip_writes;
std::vector<uint32_t> snapshots;
std::string fault;
uint16_t layer = 0;

uint64_t now = 0, next_beat = 0;
uint32_t read_latency = 2, write_latency = 1, beat_interval = 1, write_part = 0, write_buffer = 0;
uint32_t beat_bytes = 16, counters = 0;
Range read_errors, write_errors;
std::deque<Burst> reads, writes, answers;
bool rvalid = false, bvalid = false;

// A shared bus: its queue (beats of writes, 0 for a read burst); beats of writes that gather, that
// join the queue, and that have not moved; whole bursts in the buffer, and beats of the first one
// that have moved.
std::deque<uint32_t> turns;
uint32_t gathering = 0, joining = 0, buffered = 0, moved = 0;
std::deque<Burst> whole;

bool inside(uint64_t address) { return address + beat_bytes <= memory.size(); }

// Protocol rules that the engine must keep (AMBA AXI, ARM IHI 0022); breaking one ends the run.
void check(const char* channel, uint32_t address, uint32_t length, uint32_t size, uint32_t burst) {
    char text[160] = "";
    const uint64_t bytes = uint64_t(length + 1) << size;
    if (burst != INCR)
        snprintf(text, sizeof text, "%s at 0x%x has burst type %u, not INCR", channel, address,
                 burst);
    else if ((1u << size) != beat_bytes || address % beat_bytes)
        snprintf(text, sizeof text, "%s at 0x%x with beats of %u bytes is not aligned to the bus",
                 channel, address, 1u << size);
    else if (address % PAGE + bytes > PAGE)
        snprintf(text, sizeof text, "%s at 0x%x of %u beats crosses a 4 KB boundary", channel,
                 address, length + 1);
    if (*text && fault.empty()) fault = text;
}

// Moves the next beat on a shared bus in this cycle, if it is one of a write.
void move_write() {
    if (turns.empty() || turns.front() == 0 || now < next_beat) return;
    next_beat = now + beat_interval;
    buffered--, moved++;
    if (--turns.front() == 0) turns.pop_front();
    if (!whole.empty() && moved == whole.front().beats) {
        answers.push_back(whole.front());
        answers.back().ready = now + write_latency;
        whole.pop_front();
        moved = 0;
    }
}

}  // namespace

extern "C" {

// The bench's side.

uint8_t* hwgate_open(uint64_t size, uint32_t bus_bytes, uint32_t counter_count) {
    memory.assign(size, 0);
    beat_bytes = bus_bytes;
    counters = counter_count;
    return memory.data();
}

void hwgate_timing(uint32_t read, uint32_t write, uint32_t interval, uint32_t part,
                   uint32_t buffer) {
    read_latency = read;
    write_latency = write;
    beat_interval = interval;
    write_part = part;
    write_buffer = buffer;
}

void hwgate_errors(uint64_t read_from, uint64_t read_to, uint64_t write_from, uint64_t write_to) {
    read_errors.from = read_from, read_errors.to = read_to;
    write_errors.from = write_from, write_errors.to = write_to;
}

void hwgate_clear() {
    events.clear();
    chip_writes.clear();
    snapshots.clear();
    fault.clear();
    layer = 0;
}

const Event* hwgate_event_data(uint64_t* count) {
    *count = events.size();
    return events.data();
}

const ChipWrite* hwgate_chip_write_data(uint64_t* count) {
    *count = chip_writes.size();
    return chip_writes.data();
}

const uint32_t* hwgate_snapshot_data(uint64_t* count) {
    *count = snapshots.size();
    return snapshots.data();
}

const char* hwgate_fault() { return fault.c_str(); }

// The harness's side.

void hwgate_event(uint32_t lane, uint32_t channel, uint32_t tile, uint32_t pixel, int32_t psum,
                  svBit decision, svBit score) {
    events.push_back({layer, uint16_t(lane), uint16_t(channel), uint16_t(tile), uint16_t(pixel),
                      uint8_t(decision), uint8_t(score), psum});
}

void hwgate_chip_write(uint32_t address, const svBitVecVal* data) {
    ChipWrite write{layer, address, {}};
    memcpy(write.data, data, sizeof write.data);
    chip_writes.push_back(write);
}

void hwgate_layer_done(const svBitVecVal* values) {
    snapshots.insert(snapshots.end(), values, values + counters);
    layer++;
}

void hwgate_step(svBit rst, svBit arvalid, uint32_t araddr, uint32_t arlen, uint32_t arsize,
                 uint32_t arburst, svBit arid, svBit rready, svBit awvalid, uint32_t awaddr,
                 uint32_t awlen, uint32_t awsize, uint32_t awburst, svBit awid, svBit wvalid,
                 const svBitVecVal* wdata, uint32_t wstrb, svBit wlast, svBit bready,
                 svBit* out_wready, svBit* out_rvalid, svBitVecVal* rdata, uint8_t* rresp,
                 svBit* rlast, svBit* rid, svBit* out_bvalid, uint8_t* bresp, svBit* bid,
                 svBit* out_fault) {
    if (rst) {
        reads.clear(), writes.clear(), answers.clear(), turns.clear(), whole.clear();
        gathering = joining = buffered = moved = 0;
        rvalid = bvalid = false;
        arvalid = awvalid = wvalid = 0;
        next_beat = now;
    }
    const bool shared = write_part != 0;
    // Handshakes of the cycle that ends here.
    if (rvalid && rready) {
        rvalid = false;
        next_beat = now + beat_interval;
        Burst& burst = reads.front();
        if (++burst.taken == burst.beats) {
            reads.pop_front();
            if (shared) turns.pop_front();
        }
    }
    if (bvalid && bready) {
        bvalid = false;
        answers.pop_front();
    }
    if (arvalid) {
        check("Read", araddr, arlen, arsize, arburst);
        reads.push_back({araddr, now + read_latency, arlen + 1, 0, bool(arid), false});
        if (shared) turns.push_back(0);
    }
    if (awvalid) {
        check("Write", awaddr, awlen, awsize, awburst);
        writes.push_back({awaddr, 0, awlen + 1, 0, bool(awid), false});
    }
    if (wvalid) {
        if (writes.empty()) {
            if (fault.empty()) fault = "Write data came before its address";
        } else {
            Burst& burst = writes.front();
            const uint64_t at = burst.address + uint64_t(burst.taken) * beat_bytes;
            const bool error = !inside(at) || write_errors.hit(at, beat_bytes);
            const auto* bytes = reinterpret_cast<const uint8_t*>(wdata);
            for (uint32_t i = 0; !error && i < beat_bytes; i++)
                if (wstrb >> i & 1) memory[at + i] = bytes[i];
            burst.error |= error;
            const bool last = ++burst.taken == burst.beats;
            if (last != bool(wlast) && fault.empty())
                fault = "Write burst has its last beat at the wrong place";
            if (last) {
                burst.ready = now + write_latency;
                (shared ? whole : answers).push_back(burst);
                writes.pop_front();
            }
            if (shared) {
                buffered++, gathering++;
                if (last || gathering == write_part) joining += gathering, gathering = 0;
            }
        }
    }
    if (joining && !arvalid) {
        turns.push_back(joining);
        joining = 0;
    }
    // Answers of the next cycle.
    now++;
    *out_wready = !shared || buffered < write_buffer;
    move_write();
    const bool turn = !shared || (!turns.empty() && turns.front() == 0);
    if (!rvalid && !reads.empty() && turn && now >= reads.front().ready && now >= next_beat)
        rvalid = true;
    if (!bvalid && !answers.empty() && now >= answers.front().ready) bvalid = true;
    *out_rvalid = rvalid;
    *rresp = OKAY, *rlast = 0, *rid = 0;
    if (rvalid) {
        const Burst& burst = reads.front();
        const uint64_t at = burst.address + uint64_t(burst.taken) * beat_bytes;
        const bool error = !inside(at) || read_errors.hit(at, beat_bytes);
        if (error)
            memset(rdata, 0, 16);
        else
            memcpy(rdata, &memory[at], beat_bytes);
        *rresp = error ? SLVERR : OKAY;
        *rlast = burst.taken + 1 == burst.beats;
        *rid = burst.id;
    }
    *out_bvalid = bvalid;
    *bresp = OKAY, *bid = 0;
    if (bvalid) {
        *bresp = answers.front().error ? SLVERR : OKAY;
        *bid = answers.front().id;
    }
    *out_fault = !fault.empty();
}

}  // extern "C"
